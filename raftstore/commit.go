package raftstore

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

// proposal is one operation that waits to be written into the log, and its caller, who waits for the reply.
type proposal struct {
	ctx       context.Context
	bytes     []byte        // the encoded operation
	keys      []string      // the keys it writes
	exclusive bool          // must be alone in its command: its keys are known only when it is applied
	ttl       time.Duration // of the lease it grants
	reply     chan reply    // buffered for one: the proposer never blocks on it
}

// reply is the answer to a proposal. result and outcome are set when err is nil.
type reply struct {
	result  *applyResult
	outcome outcome
	err     error
}

// Commit writes t if all its conditions hold. Otherwise it writes nothing and returns fault Conflict. It
// returns when the change is durable and can be read on this replica. Concurrent calls share log entries and
// fsyncs.
//
// A transaction that can never succeed is fault Invalid. One that refers to a lease that has ended is fault
// Expired, one that would create too many streams fault Exhausted; both write nothing. After any other error
// it is unknown whether t was written: read before you try again.
func (s *Store) Commit(ctx context.Context, t Txn) (Result, error) {
	if err := t.check(); err != nil {
		return Result{}, err
	}
	keys := make([]string, len(t.Then))
	for i, w := range t.Then {
		keys[i] = w.Key
	}
	r, err := s.submit(ctx, &proposal{bytes: encodeOperation(operation{kind: kindTxn, txn: t}), keys: keys})
	if err != nil {
		return Result{}, err
	}
	if err := r.outcome.fault(); err != nil {
		return Result{}, err
	}
	return Result{Revision: r.result.revision, First: r.outcome.first, Time: r.result.time}, nil
}

// fault is the error that Commit, KeepAlive or Revoke returns for the outcome; nil if it succeeded.
func (o outcome) fault() error {
	const op = "raftstore.Commit"
	switch o.verdict {
	case conditionFailed:
		return keyChanged.New(op, fault.Args{"key": o.key})
	case leaseEnded:
		return leaseExpired.New(op)
	case tooManyStreams:
		return streamLimitReached.New(op, fault.Args{"stream": o.key})
	}
	return nil
}

// submit hands a proposal to the proposer, waits for its reply and returns that. A nil error means that the
// operation was applied; its outcome may still be a refusal. When ctx or the store ends before the reply, it
// is unknown whether the operation was written.
func (s *Store) submit(ctx context.Context, pending *proposal) (reply, error) {
	if len(pending.bytes) > MaxCommandBytes-commandOverhead {
		return reply{}, invalidFault("a transaction is over 4 MiB")
	}
	if err := s.latch.Err(); err != nil {
		return reply{}, err
	}
	if err := s.checkReadable(ctx); err != nil {
		return reply{}, err
	}
	pending.ctx, pending.reply = ctx, make(chan reply, 1)
	select {
	case s.queue <- pending:
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case <-s.stopped:
		return reply{}, s.stoppedError()
	}
	select {
	case r := <-pending.reply:
		return r, r.err
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case <-s.stopped:
	}
	// The store may have replied just before it stopped. select chooses at random when both are ready.
	select {
	case r := <-pending.reply:
		return r, r.err
	default:
		return reply{}, s.stoppedError()
	}
}

// propose runs until ctx ends. It is the only goroutine that proposes transactions. It joins the proposals
// that wait into one command and proposes one command after the other. While a command is being written to
// disk, further proposals collect for the next one. This is all there is to group commit: a single writer
// never waits for others, and there is no timer.
func (s *Store) propose(ctx context.Context, r *raft.Raft) {
	var next *proposal // received from the queue, but it may not join the last group
	for ctx.Err() == nil {
		if next == nil {
			select {
			case next = <-s.queue:
			case <-ctx.Done():
				return
			}
		}
		var group []*proposal
		group, next = s.collectGroup(next)
		s.applyGroup(r, group)
	}
}

// collectGroup returns first and the waiting proposals that may share a command with it. It takes them from
// the queue without waiting. It stops at a proposal that may not share the command, because that is
// exclusive, is too large or writes one of the same keys, and returns it as next. next is nil if the queue
// was emptied.
func (s *Store) collectGroup(first *proposal) (group []*proposal, next *proposal) {
	group = []*proposal{first}
	if first.exclusive {
		return group, nil
	}
	size := commandOverhead + len(first.bytes)
	written := map[string]struct{}{}
	addKeys(written, first.keys)
	for {
		select {
		case waiting := <-s.queue:
			size += len(waiting.bytes)
			if waiting.exclusive || size > MaxCommandBytes || overlaps(written, waiting.keys) {
				return group, waiting
			}
			addKeys(written, waiting.keys)
			group = append(group, waiting)
		default:
			return group, nil
		}
	}
}

// addKeys adds the keys to the set.
func addKeys(set map[string]struct{}, keys []string) {
	for _, k := range keys {
		set[k] = struct{}{}
	}
}

// overlaps reports whether set has one of keys. One revision must not hold two writes of a key, because
// Unchanged could not tell them apart.
func overlaps(set map[string]struct{}, keys []string) bool {
	for _, k := range keys {
		if _, hit := set[k]; hit {
			return true
		}
	}
	return false
}

// applyGroup writes a group as one command into the log and replies to each proposal. A lease that was
// granted begins here: the lessor learns of it before the caller does.
func (s *Store) applyGroup(r *raft.Raft, group []*proposal) {
	ops := make([][]byte, len(group))
	for i, p := range group {
		ops[i] = p.bytes
	}
	result, err := s.applyCommand(r, ops)
	for i, p := range group {
		if err != nil {
			p.reply <- reply{err: err}
			continue
		}
		if id := result.outcomes[i].lease; id != 0 {
			s.lessor.add(id, p.ttl, time.Now())
		}
		p.reply <- reply{result: result, outcome: result.outcomes[i]}
	}
}

// applyCommand writes one command into the log, waits until this replica has applied it, and returns the
// result. After an error it is unknown whether the command is in the log.
func (s *Store) applyCommand(r *raft.Raft, ops [][]byte) (*applyResult, error) {
	const noTimeout = 0 // it would bound only the wait for a place in raft's queue
	future := r.Apply(encodeCommand(s.cfg.Now(), ops), noTimeout)
	if err := s.waitFuture(future); err != nil {
		return nil, s.applyFault(err)
	}
	switch response := future.Response().(type) { // what fsm.Apply returned
	case *applyResult:
		return response, nil
	case error:
		return nil, response
	}
	return nil, commandUnanswered.New("raftstore.Commit")
}

// waitFuture waits for a future of raft and returns its error, or raft.ErrRaftShutdown when raft was shut
// down. raft v1.8.0 leaves some futures unanswered when it is shut down. The goroutine that waits for such a
// future never ends.
func (s *Store) waitFuture(future raft.Future) error {
	answered := make(chan error, 1)
	go func() { answered <- future.Error() }()
	select {
	case err := <-answered:
		return err
	case <-s.raftStopped:
		return raft.ErrRaftShutdown
	}
}

// applyFault turns an error of raft into a fault for the caller: the latched fault if this replica has
// failed, otherwise Unavailable.
func (s *Store) applyFault(err error) error {
	switch {
	case s.latch.Err() != nil:
		return s.latch.Err()
	case errors.Is(err, raft.ErrRaftShutdown):
		return storeStopped.New("raftstore")
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return replicaNotLeader.New("raftstore")
	}
	return changeUnknown.Wrap(err, "raftstore.Commit")
}
