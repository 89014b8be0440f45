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
	bytes     []byte        // encodeOperation's
	keys      []string      // it writes
	exclusive bool          // it shares no command: what it writes is known only when it is applied
	ttl       time.Duration // of the lease it grants
	reply     chan reply
}

type reply struct {
	result  *applyResult
	outcome outcome
	err     error
}

// Commit writes t if its conditions hold, else it is fault Conflict. Concurrent calls share log entries and
// fsyncs. An error of any other kind than Conflict and Invalid leaves open whether t happened: read before
// trying again.
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

func (o outcome) fault() error {
	const op = "raftstore.Commit"
	switch o.verdict {
	case conditionFailed:
		return fault.New(
			fault.Conflict,
			op,
			quote(o.key)+" was changed meanwhile",
			"read it again and repeat the change",
		)
	case leaseEnded:
		return fault.New(fault.Expired, op, "the lease has ended", "take a new lease and write again")
	case tooManyStreams:
		return fault.New(
			fault.Exhausted,
			op,
			"the store keeps no more streams: "+quote(o.key),
			"append to a stream that exists",
		)
	}
	return nil
}

// submit hands a proposal to the proposer and waits for what became of it.
func (s *Store) submit(ctx context.Context, p *proposal) (reply, error) {
	if len(p.bytes) > MaxCommandBytes-commandOverhead {
		return reply{}, invalid("a transaction is over 4 MiB")
	}
	if err := s.latch.err(); err != nil {
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
	select {
	case r := <-p.reply:
		return r, r.err
	default:
		return reply{}, s.stoppedError()
	}
}

// propose joins what waits into commands, one after the other: while one is on its way to disk, the next one
// fills. That is the whole of group commit; a lone writer never waits for company.
func (s *Store) propose(ctx context.Context, r *raft.Raft) {
	var next *proposal // took no part in the last group
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

// collectGroup takes what waits in the queue as long as it may share a command with first. It returns the one
// that may not, if any.
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

// overlaps: one revision must not hold two writes of a key, or Unchanged could not tell them apart.
func overlaps(set map[string]struct{}, keys []string) bool {
	for _, k := range keys {
		if _, hit := set[k]; hit {
			return true
		}
	}
	return false
}

// applyGroup puts a group into the log and answers each member.
func (s *Store) applyGroup(r *raft.Raft, group []*proposal) {
	ops := make([][]byte, len(group))
	for i, p := range group {
		ops[i] = p.bytes
	}
	got, err := s.applyCommand(r, ops)
	for i, p := range group {
		if err != nil {
			p.reply <- reply{err: err}
			continue
		}
		if id := got.outcomes[i].lease; id != 0 {
			s.lessor.add(id, p.ttl, time.Now())
		}
		p.reply <- reply{result: got, outcome: got.outcomes[i]}
	}
}

func (s *Store) applyCommand(r *raft.Raft, ops [][]byte) (*applyResult, error) {
	future := r.Apply(encodeCommand(s.cfg.Now(), ops), 0)
	if err := s.waitFuture(future); err != nil {
		return nil, s.applyFault(err)
	}
	switch got := future.Response().(type) {
	case *applyResult:
		return got, nil
	case error:
		return nil, got
	}
	return nil, fault.New(
		fault.Internal,
		"raftstore.Commit",
		"the state machine gave no answer",
		"restart auth",
	)
}

// waitFuture waits for a future of raft's, or for raft's end: some futures then stay unanswered, and so does
// the goroutine here.
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

func (s *Store) applyFault(err error) error {
	switch {
	case s.latch.err() != nil:
		return s.latch.err()
	case errors.Is(err, raft.ErrRaftShutdown):
		return unavailable("the store has stopped")
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return unavailable("this replica does not lead")
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"raftstore.Commit",
		"it is not known whether the write was kept",
		"look whether it was, then try again",
	)
}
