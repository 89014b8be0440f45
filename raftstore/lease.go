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

// maxTTL bounds a lease's life without word: what lives longer is no lease.
const maxTTL = 24 * time.Hour

// lessor is the leader's clock over leases. The state machine knows which leases live, not until when; the
// leader does, and proposes their end as a command. Keeping a lease alive therefore writes nothing. A new
// leader gives each its full time again.
type lessor struct {
	mu      sync.Mutex            // guards what follows
	ends    map[LeaseID]time.Time // nil while this replica does not lead
	ttls    map[LeaseID]time.Duration
	changed chan struct{} // has room for one; an earlier end may have come
}

func newLessor() *lessor { return &lessor{changed: make(chan struct{}, 1)} }

// start starts the time of all leases anew: this replica leads.
func (l *lessor) start(now time.Time, s *state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends, l.ttls = map[LeaseID]time.Time{}, map[LeaseID]time.Duration{}
	walk(
		s.leases,
		func(key []byte, ttl time.Duration) { l.set(LeaseID(binary.BigEndian.Uint64(key)), ttl, now) },
	)
}

// stop forgets all: another replica leads.
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

func (l *lessor) set(id LeaseID, ttl time.Duration, now time.Time) {
	l.ends[id], l.ttls[id] = now.Add(ttl), ttl
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// renew gives a lease its full time again, unless its end has been reached: then it is already being
// proposed.
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

// expired returns the leases that ended by now, in order, and how long until the next one does (an hour when
// there is none).
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

// Grant makes a lease that lives for ttl (at most 24 h), and as long again after each KeepAlive.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	if ttl <= 0 || ttl > maxTTL {
		return 0, fault.New(
			fault.Invalid,
			"raftstore.Grant",
			"a lease lives for up to 24 hours",
			"ask for a time between 1 ns and 24 h",
		)
	}
	r, err := s.submit(
		ctx,
		&proposal{bytes: encodeOperation(operation{kind: kindGrant, ttl: ttl}), exclusive: true, ttl: ttl},
	)
	return r.outcome.lease, err
}

// KeepAlive gives the lease its full time again; fault Expired when it has ended. It writes nothing.
func (s *Store) KeepAlive(ctx context.Context, id LeaseID) error {
	if err := s.checkReadable(ctx); err != nil {
		return err
	}
	if err := s.verify(ctx, s.raft.Load()); err != nil {
		return err
	}
	if !s.lessor.renew(id, time.Now()) {
		return outcome{verdict: leaseEnded}.fault()
	}
	return nil
}

// Revoke ends the lease now, and removes its keys; fault Expired when it has ended before.
func (s *Store) Revoke(ctx context.Context, id LeaseID) error {
	r, err := s.revoke(ctx, []LeaseID{id})
	if err != nil {
		return err
	}
	return r.outcome.fault()
}

func (s *Store) revoke(ctx context.Context, ids []LeaseID) (reply, error) {
	r, err := s.submit(
		ctx,
		&proposal{bytes: encodeOperation(operation{kind: kindRevoke, leases: ids}), exclusive: true},
	)
	if err == nil {
		s.lessor.remove(ids)
	}
	return r, err
}

// watchLeadership begins each term this replica leads with an empty command, which Ready and Linearize wait
// for, and keeps the lessor.
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

// expireLeases proposes the end of leases whose time has come.
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
