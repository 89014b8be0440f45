package raftstore

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

// proposal is an operation on its way into the log.
type proposal struct {
	ctx       context.Context
	bytes     []byte        // the encoded operation
	keys      []string      // the keys it writes
	exclusive bool          // shares no command, because the keys it writes are known only when it is applied
	ttl       time.Duration // of the lease it grants
	reply     chan reply    // buffered for one: the proposer never blocks on it
}

// reply is the answer to a proposal. result and outcome are set when err is nil.
type reply struct {
	result  *applyResult
	outcome outcome
	err     error
}

// Commit writes t if its conditions hold, and otherwise returns fault Conflict. Concurrent calls share log
// entries and fsyncs. After an error of any kind but Conflict and Invalid it is unknown whether t was
// written: read before you try again.
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
		const remedy = "read it again and repeat the change"
		return fault.New(fault.Conflict, op, quote(o.key)+" was changed meanwhile", remedy)
	case leaseEnded:
		return fault.New(fault.Expired, op, "the lease has ended", "take a new lease and write again")
	case tooManyStreams:
		const remedy = "append to a stream that exists"
		return fault.New(fault.Exhausted, op, "no more streams can be created: "+quote(o.key), remedy)
	}
	return nil
}

// submit hands a proposal to the proposer and waits for its result.
func (s *Store) submit(ctx context.Context, p *proposal) (reply, error) {
	if len(p.bytes) > MaxCommandBytes-commandOverhead {
		return reply{}, invalid("a transaction is over 4 MiB")
	}
	if err := s.latch.Err(); err != nil {
		return reply{}, err
	}
	if err := s.checkReadable(ctx); err != nil {
		return reply{}, err
	}
	p.ctx, p.reply = ctx, make(chan reply, 1)
	select {
	case s.queue <- p:
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case <-s.stopped:
		return reply{}, s.stoppedError()
	}
	select {
	case r := <-p.reply:
		return r, r.err
	case <-ctx.Done():
		return reply{}, ctx.Err()
	case <-s.stopped:
	}
	// The store may have answered just before it stopped.
	select {
	case r := <-p.reply:
		return r, r.err
	default:
		return reply{}, s.stoppedError()
	}
}

// propose runs until ctx ends. It is the only goroutine that proposes transactions. It joins the waiting
// proposals into commands, one command after the other: while one is on its way to disk, the next one fills.
// That is the whole of group commit. A single writer never waits for others, and there is no timer.
func (s *Store) propose(ctx context.Context, r *raft.Raft) {
	var next *proposal // received, but it could not join the last group
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

// collectGroup receives from the queue, without waiting, as long as the proposals may share a command with
// first. next is the proposal that may not, if there is one.
func (s *Store) collectGroup(first *proposal) (group []*proposal, next *proposal) {
	group = []*proposal{first}
	size := commandOverhead + len(first.bytes)
	written := map[string]struct{}{}
	if first.exclusive {
		return group, nil
	}
	addKeys(written, first.keys)
	for {
		select {
		case p := <-s.queue:
			size += len(p.bytes)
			if p.exclusive || size > MaxCommandBytes || overlaps(written, p.keys) {
				return group, p
			}
			addKeys(written, p.keys)
			group = append(group, p)
		default:
			return group, nil
		}
	}
}

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

// applyGroup writes a group as one command into the log and answers each proposal.
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

// applyCommand puts one command into the log and waits until it is applied here. An error leaves open whether
// the command is in the log.
func (s *Store) applyCommand(r *raft.Raft, ops [][]byte) (*applyResult, error) {
	future := r.Apply(encodeCommand(s.cfg.Now(), ops), 0)
	if err := s.waitFuture(future); err != nil {
		return nil, s.applyFault(err)
	}
	switch response := future.Response().(type) {
	case *applyResult:
		return response, nil
	case error:
		return nil, response
	}
	const msg = "the state machine gave no answer"
	return nil, fault.New(fault.Internal, "raftstore.Commit", msg, "restart auth")
}

// waitFuture waits for a future of raft, or for raft's shutdown. raft v1.8.0 leaves some futures unanswered
// when it is shut down. The goroutine that waits for such a future never ends.
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

// applyFault turns an error of raft into a fault for the caller.
func (s *Store) applyFault(err error) error {
	switch {
	case s.latch.Err() != nil:
		return s.latch.Err()
	case errors.Is(err, raft.ErrRaftShutdown):
		return unavailable("the store has stopped")
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return unavailable("this replica is not the leader")
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"raftstore.Commit",
		"it is unknown whether the change was written",
		"check whether the change was made, then try again",
	)
}
