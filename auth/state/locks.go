package state

import (
	"context"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
)

// machineLocksVersionKey and userLocksVersionKey are the keys of the rulesVersions of the two documents of
// locks. There is none before the first lock of its kind.
const (
	machineLocksVersionKey = "machine-locks"
	userLocksVersionKey    = "user-locks"
)

var locks = table[access.Lock]{prefix: "lock/", noun: "lock", remedy: "run: tsh lock ls"}

// lockMargin is how much longer a lock is kept than the certificates that it hits: the clocks of the machines
// that verify these may be behind.
const lockMargin = 5 * time.Minute

// LockOfIssuedBefore returns a lock with the effect on the certificates that have the facts and were issued
// before now. It ends when the last of them has.
func LockOfIssuedBefore(match access.Facts, effect access.Effect, now time.Time) access.Lock {
	match.IssuedBefore = now.UTC()
	return endWithCertificates(access.NewLock(match, effect), now)
}

// lockOfRemoved returns the lock of a machine that is removed. It ends when the last certificate of the
// machine has: a machine that is removed gets no other.
func lockOfRemoved(id identity.MachineID, now time.Time) access.Lock {
	lock := access.NewLock(access.Facts{Machine: id}, access.Effect{Kind: access.Deny})
	return endWithCertificates(lock, now)
}

// endWithCertificates returns the lock with an end after that of every certificate that was issued before
// now.
func endWithCertificates(lock access.Lock, now time.Time) access.Lock {
	lock.Created = now.UTC().Truncate(time.Second)
	lock.End = EndOfIssuedBefore(now)
	return lock
}

// EndOfIssuedBefore returns when every certificate has ended that was issued before the time: a lock on them
// need not last longer.
func EndOfIssuedBefore(t time.Time) time.Time {
	return t.UTC().Truncate(time.Second).Add(time.Second + identity.MaxLifetime + lockMargin)
}

// By is who takes access away, and when.
type By struct {
	Name string // whom those can ask who are hit; empty: nobody in particular
	Time time.Time
}

// after returns the same with a time after that of the last issuance. The time of a change was taken before
// the change was committed, and certificates may have been issued between the two.
func (b By) after(lastIssued time.Time) By {
	if !lastIssued.Before(b.Time) {
		b.Time = lastIssued.UTC().Add(1)
	}
	return b
}

// locksOnLostRoles returns a lock for each role that the user has before, and not after: the role does not
// count in certificates that were issued before. The other roles go on.
func locksOnLostRoles(before, after User, by By) []access.Lock {
	var list []access.Lock
	by = by.after(before.LastIssued)
	for _, role := range slices.Concat(before.Roles, before.Mapped) {
		if len(after.FilterRoles([]string{role})) > 0 {
			continue
		}
		user := access.UserFact(before.UserKey())
		without := access.Effect{Kind: access.WithoutRole, Role: role}
		lock := LockOfIssuedBefore(access.Facts{User: user}, without, by.Time)
		lock.Message, lock.Author = "the role was taken", by.Name
		list = append(list, lock)
	}
	return list
}

// Lock returns one lock, or fault NotFound.
func (r *Reader) Lock(ctx context.Context, id string) (Stored[access.Lock], error) {
	return locks.get(ctx, r, id)
}

// ListLocks returns one page of the locks, ordered by id.
func (r *Reader) ListLocks(ctx context.Context, p Page) (Listing[access.Lock], error) {
	return locks.list(ctx, r, p)
}

// LockSet has every lock as of one revision. It is shared by all callers and must not be changed.
type LockSet struct {
	Machines, Users PublishedLocks
	Locks           access.Locks // all of them, as decisions need them
	// Unreadable are the ids of locks that this release cannot read. While there are any, the set is the last
	// one without: a lock is never left out of what is published.
	Unreadable []string

	read [2]uint64 // the revisions of both documents when the set was returned
}

// requireUnchanged makes the whole change fail if a lock was written or removed since the set was returned.
func (s *LockSet) requireUnchanged(c *change) {
	for i, key := range []string{machineLocksVersionKey, userLocksVersionKey} {
		if s.read[i] == 0 {
			rulesVersions.requireMissing(c, key)
			continue
		}
		read := raftstore.Item{Key: rulesVersions.prefix + key, Modified: raftstore.Revision(s.read[i])}
		c.require(raftstore.Unchanged(read))
	}
}

// PublishedLocks are the locks of one of the signed documents.
type PublishedLocks struct {
	Locks    []access.Lock // ordered by id
	Revision uint64        // of the last change; 0: there never was one
	Time     time.Time     // of that change
}

// Len is how many locks there are.
func (s *LockSet) Len() int { return len(s.Machines.Locks) + len(s.Users.Locks) }

// LockSet returns the locks as they are now. It decodes them only after a change: otherwise it reads two
// records and returns the same pointer as the last time. If locks change while it reads them, it starts
// again. If a lock cannot be read, it returns the last set, or without one fault Internal.
func (r *Reader) LockSet(ctx context.Context) (*LockSet, error) {
	for {
		next, err := r.lockVersions(ctx)
		if err != nil {
			return nil, err
		}
		last := r.lockSet.Load()
		if last != nil && last.isOf(next) {
			return last, nil
		}
		all, unreadable, err := locks.readAll(ctx, r)
		if err != nil {
			return nil, err
		}
		if after, err := r.lockVersions(ctx); err != nil {
			return nil, err
		} else if !after.isOf(next) {
			continue
		}
		if len(unreadable) > 0 {
			if last == nil {
				return nil, locksUnreadable.New("state.LockSet", fault.Args{"ids": unreadable})
			}
			kept := *last
			kept.Unreadable, kept.read = unreadable, next.read
			return &kept, nil
		}
		for _, l := range all {
			part := &next.Users
			if l.Value.OfMachine() {
				part = &next.Machines
			}
			part.Locks = append(part.Locks, l.Value)
		}
		next.Locks = access.NewLocks(slices.Concat(next.Machines.Locks, next.Users.Locks))
		r.lockSet.Store(next)
		return next, nil
	}
}

// lockVersions returns a set that has only the versions of the locks.
func (r *Reader) lockVersions(ctx context.Context) (*LockSet, error) {
	ofMachines, err := rulesVersions.getOrNew(ctx, r, machineLocksVersionKey)
	if err != nil {
		return nil, err
	}
	ofUsers, err := rulesVersions.getOrNew(ctx, r, userLocksVersionKey)
	return &LockSet{
		Machines: PublishedLocks{Revision: ofMachines.Revision, Time: ofMachines.Value.Time},
		Users:    PublishedLocks{Revision: ofUsers.Revision, Time: ofUsers.Value.Time},
		read:     [2]uint64{ofMachines.Revision, ofUsers.Revision},
	}, err
}

// isOf reports whether both sets have the same revisions.
func (s *LockSet) isOf(other *LockSet) bool {
	return s.Machines.Revision == other.Machines.Revision && s.Users.Revision == other.Users.Revision
}

// putLocks adds to c that the locks are written, in the place of those with the same ids. It returns fault
// Exhausted if there is no room for them.
func (r *Reader) putLocks(ctx context.Context, c *change, now time.Time, list ...access.Lock) error {
	if len(list) == 0 {
		return nil
	}
	if err := r.checkRoom(ctx, len(list), access.MaxLocks); err != nil {
		return err
	}
	for _, l := range list {
		locks.set(c, l.ID, l)
		c.changeLocks(l, now)
	}
	return nil
}

// changeLocks adds to c the new version of the document that the lock is in, if c does not have it already.
func (c *change) changeLocks(l access.Lock, now time.Time) {
	key := userLocksVersionKey
	if l.OfMachine() {
		key = machineLocksVersionKey
	}
	isVersion := func(w raftstore.Write) bool { return w.Key == rulesVersions.prefix+key }
	if slices.ContainsFunc(c.txn.Then, isVersion) {
		return
	}
	rulesVersions.set(c, key, rulesVersion{Time: now.UTC()})
}

// keptForRemovals is how many of access.MaxLocks only removals may use: of users, roles, machines and
// connectors. Somebody who fills the locks must not keep others from taking access away.
const keptForRemovals = 1000

// checkRoom returns fault Exhausted if the cluster cannot have so many locks more, of most.
func (r *Reader) checkRoom(ctx context.Context, more, most int) error {
	set, err := r.LockSet(ctx)
	if err != nil {
		return err
	}
	if have := set.Len(); have+more > most {
		return locksFull.New("state", fault.Args{"have": have, "more": more, "most": most})
	}
	return nil
}

// Locks makes and removes locks, and reads.
type Locks struct{ writer }

// PutLock writes the lock in the place of old. It returns fault Conflict if old is no longer what is stored,
// and fault Exhausted if there are too many. The zero value as old creates the lock.
func (w *Locks) PutLock(
	ctx context.Context, old Stored[access.Lock], lock access.Lock, now time.Time, events ...audit.Event,
) error {
	if old.Revision == 0 {
		if err := w.checkRoom(ctx, 1, access.MaxLocks-keptForRemovals); err != nil {
			return err
		}
	}
	var c change
	old.Key = lock.ID
	locks.replaceOrCreate(&c, old, lock)
	c.changeLocks(lock, now)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// RemoveLock removes a lock. It returns fault Conflict if old is no longer what is stored.
func (w *Locks) RemoveLock(
	ctx context.Context, old Stored[access.Lock], now time.Time, events ...audit.Event,
) error {
	var c change
	locks.remove(&c, old)
	c.changeLocks(old.Value, now)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// maxPruned is how many locks one commit of RemoveEnded removes.
const maxPruned = 1000

// RemoveEnded removes locks that have ended, at most maxPruned, and returns how many. They have no effect, so
// there are no events of it.
func (w *Locks) RemoveEnded(ctx context.Context, now time.Time) (removed int, err error) {
	all, _, err := locks.readAll(ctx, w.Reader)
	if err != nil {
		return 0, err
	}
	var c change
	for _, l := range all {
		// The margin is for the clocks of other machines: on each of them the lock must have ended.
		if end := l.Value.End; end.IsZero() || now.Before(end.Add(lockMargin)) || removed == maxPruned {
			continue
		}
		locks.remove(&c, l)
		c.changeLocks(l.Value, now)
		removed++
	}
	if removed == 0 {
		return 0, nil
	}
	_, err = w.commit(ctx, &c)
	return removed, err
}

// LockIssuedBefore locks every certificate of a user that was issued before now. It belongs to a restore from
// a backup: the store has forgotten what was locked and removed after the backup, so everybody logs in again
// and is judged by what the store knows. The events are committed with the lock.
func (w *Locks) LockIssuedBefore(ctx context.Context, now time.Time, events ...audit.Event) error {
	lock := LockOfIssuedBefore(access.Facts{}, access.Effect{Kind: access.Deny}, now)
	lock.Message = "the cluster was restored from a backup: log in again"
	var c change
	if err := w.putLocks(ctx, &c, now, lock); err != nil {
		return err
	}
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
