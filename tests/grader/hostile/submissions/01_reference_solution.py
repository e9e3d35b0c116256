# expect: OK 32
# note: the solved notebook
