# expect: WRONG 0
# base: release
# says: nothing was answered
# note: the released notebook as it was handed out
