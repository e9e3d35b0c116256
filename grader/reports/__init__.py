"""What people read of the results: feedback, the class report, exports."""
