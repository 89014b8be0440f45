package raftstore

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

// maxTTL bounds the time to live of a lease.
const maxTTL = 24 * time.Hour

// lessor keeps the time of leases on the leader. The state machine knows which leases live, but not until
// when. The leader knows, and proposes the end of a lease as a command. So KeepAlive writes nothing. A new
// leader gives each lease its full time again: a lease may live longer than asked, but never shorter.
type lessor struct {
	mu   sync.Mutex            // guards ends and ttls; taken alone
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

// Grant makes a lease that lives for ttl, and for ttl again after each KeepAlive. ttl is more than zero and
// at most 24 h.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	if ttl <= 0 || ttl > maxTTL {
		return 0, fault.New(
			fault.Invalid,
			"raftstore.Grant",
			"a lease lives for up to 24 hours",
			"ask for a time between 1 ns and 24 h",
		)
	}
	op := encodeOperation(operation{kind: kindGrant, ttl: ttl})
	r, err := s.submit(ctx, &proposal{bytes: op, exclusive: true, ttl: ttl})
	return r.outcome.lease, err
}

// KeepAlive gives the lease its full time again. It returns fault Expired when the lease has ended. It writes
// nothing.
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

func (s *Store) revoke(ctx context.Context, ids []LeaseID) (reply, error) {
	op := encodeOperation(operation{kind: kindRevoke, leases: ids})
	r, err := s.submit(ctx, &proposal{bytes: op, exclusive: true})
	if err == nil {
		s.lessor.remove(ids)
	}
	return r, err
}

// watchLeadership runs until ctx ends. When this replica becomes the leader, it begins the term with an empty
// command, for which Ready and Linearize wait, and starts the lessor. When it loses leadership, it stops the
// lessor.
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
		if _, err := s.applyCommand(r, nil); err != nil {
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

// expireLeases runs until ctx ends. It proposes the end of leases whose time is over.
func (s *Store) expireLeases(ctx context.Context) {
	for {
		ended, next := s.lessor.expired(time.Now())
		if len(ended) > 0 {
			next = 0
			if _, err := s.revoke(ctx, ended[:min(len(ended), expiryGroup)]); err != nil {
				next = retryExpiry
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			return
		case <-s.lessor.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}
