package rules

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// wanted are the revisions of documents that a machine must decide by.
type wanted map[signed.Kind]signed.Revision

// confirmedBy reports whether the machine has signed that it decides by all of them.
func (w wanted) confirmedBy(a acknowledgement) bool {
	for kind, revision := range w {
		if !a.Has(kind, revision) {
			return false
		}
	}
	return true
}

// Confirmations says which machines have not confirmed a lock. It waits for those that are attached, as the
// request says. It returns fault NotFound for a lock that does not exist, and Unavailable while no locks can
// be published, and if ctx ends.
func (a *Acknowledgements) Confirmations(
	ctx context.Context, req authrpc.LockConfirmationsRequest,
) (authrpc.LockConfirmationsResponse, error) {
	res, err := a.waitForConfirmations(ctx, req)
	if err != nil && ctx.Err() != nil {
		err = confirmationsUnfinished.Wrap(err, "rules.Confirmations")
	}
	return res, err
}

func (a *Acknowledgements) waitForConfirmations(
	ctx context.Context, req authrpc.LockConfirmationsRequest,
) (res authrpc.LockConfirmationsResponse, err error) {
	want, revision, err := a.wantedLocks(ctx, req.Lock)
	if err != nil {
		return res, err
	}
	wait := time.NewTimer(min(max(req.Wait, 0), authrpc.MaxConfirmationsWait))
	defer wait.Stop()
	for over := req.Wait <= 0; ; {
		members, err := a.roster(ctx)
		if err != nil {
			return res, err
		}
		var silent []identity.MachineID
		res, silent = confirmations(members, want)
		res.Revision = revision
		if len(silent) == 0 || over {
			return res, nil
		}
		if over, err = a.await(ctx, want, silent, wait.C); err != nil {
			return res, err
		}
	}
}

// wantedLocks returns what a machine must decide by to have the lock with the id, or all locks if it is
// empty. revision is that of the lock, or of the last change of any.
func (a *Acknowledgements) wantedLocks(
	ctx context.Context, id string,
) (want wanted, revision uint64, err error) {
	chain, err := a.cfg.Machines.AuthoritiesChain(ctx)
	if err != nil {
		return nil, 0, err
	}
	if len(chain) == 0 {
		return nil, 0, authoritiesMissing.New("rules.Confirmations")
	}
	epoch := chain[len(chain)-1].Revision.Epoch
	if id != "" {
		lock, err := a.cfg.Machines.Lock(ctx, id)
		if err != nil {
			return nil, 0, err
		}
		kind := signed.UserLocksKind
		if lock.Value.OfMachine() {
			kind = signed.MachineLocksKind
		}
		// The commit that wrote the lock made the document of this revision.
		want = wanted{kind: {Epoch: epoch, Index: lock.Revision}}
		revision = lock.Revision
	}
	locks, err := a.cfg.Machines.LockSet(ctx)
	switch {
	case err != nil:
		return nil, 0, err
	case len(locks.Unreadable) > 0:
		return nil, 0, locksNotPublished.New("rules.Confirmations", fault.Args{"ids": locks.Unreadable})
	case id == "":
		ofMachines, ofUsers := locks.Machines.Revision, locks.Users.Revision
		revision = max(ofMachines, ofUsers)
		want = wanted{
			signed.MachineLocksKind: {Epoch: epoch, Index: ofMachines},
			signed.UserLocksKind:    {Epoch: epoch, Index: ofUsers},
		}
	}
	return want, revision, nil
}

// await waits until all of the machines have confirmed. over is true if the wait was over before that.
func (a *Acknowledgements) await(
	ctx context.Context, want wanted, silent []identity.MachineID, wait <-chan time.Time,
) (over bool, err error) {
	for {
		a.mu.Lock()
		changed := a.changed
		for len(silent) > 0 && want.confirmedBy(a.newest[silent[0]]) {
			silent = silent[1:]
		}
		a.mu.Unlock()
		if len(silent) == 0 {
			return false, nil
		}
		select {
		case <-changed:
		case <-wait:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// confirmations counts the machines and lists those that have not confirmed. silent are all that are attached
// and have not.
func confirmations(
	members []member, want wanted,
) (res authrpc.LockConfirmationsResponse, silent []identity.MachineID) {
	for _, m := range members {
		confirmed := want.confirmedBy(m.acknowledgement)
		switch {
		case m.attached && confirmed:
			res.Attached++
			res.Confirmed++
		case m.attached:
			res.Attached++
			silent = append(silent, m.ID)
			res.Silent = appendUnconfirmed(res.Silent, m)
		case !confirmed:
			res.OfflineCount++
			res.Offline = appendUnconfirmed(res.Offline, m)
		}
	}
	return res, silent
}

// appendUnconfirmed adds a machine to a list that is not full.
func appendUnconfirmed(list []authrpc.UnconfirmedMachine, m member) []authrpc.UnconfirmedMachine {
	if len(list) == authrpc.MaxUnconfirmed {
		return list
	}
	out := authrpc.UnconfirmedMachine{ID: m.ID, Name: m.Name, Kind: m.Kind, Time: m.Time}
	for _, kind := range []signed.Kind{signed.MachineLocksKind, signed.UserLocksKind} {
		if doc := m.Docs[kind]; doc.Revision != (signed.Revision{}) {
			if out.Locks == nil {
				out.Locks = map[signed.Kind]signed.Revision{}
			}
			out.Locks[kind] = doc.Revision
		}
	}
	return append(list, out)
}
