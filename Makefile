# For fingers used to make; ./dev does the work.
.PHONY: demo test lint unit browser integration faults molecule bench clean
demo test lint unit browser integration faults molecule bench clean:
	./dev $@
