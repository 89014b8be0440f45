package raftstore

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxTTL bounds the time to live of a lease.
const maxTTL = 24 * time.Hour

// lessor knows on the leader when each lease ends. The state has the leases and their times to live, but not
// when they end: the leader proposes the end of a lease as a command when its time is over. So KeepAlive
// writes nothing to the log. A new leader gives each lease its full time again: a lease may live longer than
// asked, but never shorter.
type lessor struct {
	mu   sync.Mutex            // guards ends and ttls; no other lock is taken while it is held
	ends map[LeaseID]time.Time // nil while this replica is not the leader
	ttls map[LeaseID]time.Duration

	// changed wakes expireLeases: an end may have come that is earlier than all others. It holds one signal.
	changed chan struct{}
}

func newLessor() *lessor { return &lessor{changed: make(chan struct{}, 1)} }

// start is called when this replica becomes the leader. It gives all leases of s their full time.
func (l *lessor) start(now time.Time, s *state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends, l.ttls = map[LeaseID]time.Time{}, map[LeaseID]time.Duration{}
	walk(s.leases, func(key []byte, ttl time.Duration) {
		l.set(LeaseID(binary.BigEndian.Uint64(key)), ttl, now)
	})
}

// stop forgets all leases: another replica leads.
func (l *lessor) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends, l.ttls = nil, nil
}

// add begins a new lease. It does nothing on a replica that does not lead: the new leader starts all leases.
func (l *lessor) add(id LeaseID, ttl time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends != nil {
		l.set(id, ttl, now)
	}
}

// set gives a lease its full time. The caller holds mu.
func (l *lessor) set(id LeaseID, ttl time.Duration, now time.Time) {
	l.ends[id], l.ttls[id] = now.Add(ttl), ttl
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// renew gives a lease its full time again. It returns false when the end has been reached: then the end is
// already being proposed.
func (l *lessor) renew(id LeaseID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	end, known := l.ends[id]
	if !known || !now.Before(end) {
		return false
	}
	l.set(id, l.ttls[id], now)
	return true
}

// remove forgets leases that were revoked.
func (l *lessor) remove(ids []LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		delete(l.ends, id)
		delete(l.ttls, id)
	}
}

// expired returns the leases that have ended by now, in order, and the time until the next one ends (at most
// an hour).
func (l *lessor) expired(now time.Time) (ended []LeaseID, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = time.Hour
	for id, end := range l.ends {
		if now.Before(end) {
			next = min(next, end.Sub(now))
		} else {
			ended = append(ended, id)
		}
	}
	slices.Sort(ended)
	return ended, next
}

// Grant makes a lease and returns its id. The lease lives for ttl, and for ttl again after each KeepAlive;
// then it ends and its keys are removed. A ttl that is not between 1 ns and 24 h is fault Invalid.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	if ttl <= 0 || ttl > maxTTL {
		return 0, leaseTimeInvalid.New("raftstore.Grant")
	}
	op := encodeOperation(operation{kind: kindGrant, ttl: ttl})
	r, err := s.submit(ctx, &proposal{bytes: op, exclusive: true, ttl: ttl})
	return r.outcome.lease, err
}

// KeepAlive gives the lease its full time again. It writes nothing to the log. It returns fault Expired when
// the lease has ended, and fault Unavailable when this replica does not lead.
func (s *Store) KeepAlive(ctx context.Context, id LeaseID) error {
	if err := s.checkReadable(ctx); err != nil {
		return err
	}
	if err := s.verifyLeader(ctx, s.raft.Load()); err != nil {
		return err
	}
	if !s.lessor.renew(id, time.Now()) {
		return outcome{verdict: leaseEnded}.fault()
	}
	return nil
}

// Revoke ends the lease now and removes its keys. It returns fault Expired when the lease has ended before.
func (s *Store) Revoke(ctx context.Context, id LeaseID) error {
	r, err := s.revoke(ctx, []LeaseID{id})
	if err != nil {
		return err
	}
	return r.outcome.fault()
}

// revoke proposes the end of leases and the removal of their keys, in one command.
func (s *Store) revoke(ctx context.Context, ids []LeaseID) (reply, error) {
	op := encodeOperation(operation{kind: kindRevoke, leases: ids})
	r, err := s.submit(ctx, &proposal{bytes: op, exclusive: true})
	if err == nil {
		s.lessor.remove(ids)
	}
	return r, err
}

// watchLeadership runs until ctx ends. When this replica becomes the leader, watchLeadership writes an empty
// command, the first of the new term, and then starts the lessor. Ready and Linearize wait for that command:
// when it is applied, so is everything of earlier terms. When this replica loses leadership, watchLeadership
// stops the lessor.
func (s *Store) watchLeadership(ctx context.Context, r *raft.Raft) {
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-r.LeaderCh():
			if !leads {
				s.lessor.stop()
				continue
			}
		}
		var noOperations [][]byte
		if _, err := s.applyCommand(r, noOperations); err != nil {
			s.cfg.Log.Info("leadership was lost at once", "error", err)
			continue
		}
		s.lessor.start(time.Now(), s.fsm.state.Load())
	}
}

// retryExpiry is how long the leader waits after it could not propose the end of leases.
const retryExpiry = time.Second

// expiryGroup is how many leases one command ends, at most.
const expiryGroup = 1000

// expireLeases runs until ctx ends. It revokes the leases whose time is over, in groups of up to expiryGroup.
// On a replica that does not lead, the lessor has no leases, and expireLeases does nothing.
func (s *Store) expireLeases(ctx context.Context) {
	for {
		ended, wait := s.lessor.expired(time.Now())
		if len(ended) > 0 {
			wait = 0 // there may be more than one group
			if _, err := s.revoke(ctx, ended[:min(len(ended), expiryGroup)]); err != nil {
				wait = retryExpiry
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			return
		case <-s.lessor.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}
