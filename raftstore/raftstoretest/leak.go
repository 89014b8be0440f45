package raftstoretest

// UnansweredFuture is the function of the only goroutine that may outlive a store, for
// goleak.IgnoreAnyFunction. It waits for a future that raft v1.8.0 leaves unanswered when it is shut down
// in the middle of a command.
const UnansweredFuture = "github.com/threshold-access/threshold/raftstore.(*Store).waitFuture.func1"
