package state

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
)

// RootChange is a change of the authorities that waits for the signature of the cluster root.
type RootChange struct {
	Request json.RawMessage `json:"request"` // what the root is asked to sign
	Keys    json.RawMessage `json:"keys"`    // the new keys of ca/keyring, with their private parts sealed
}

var rootChanges = table[RootChange]{
	prefix: "root-change/", noun: "change of the authorities", remedy: "make one: tsh root request",
}

// RootChange returns the change that waits. Without one it returns an empty change with Revision 0.
func (r *Reader) RootChange(ctx context.Context) (Stored[RootChange], error) {
	return rootChanges.getOrNew(ctx, r, clusterKey)
}

// RootChanges stores changes of the authorities, and commits them.
type RootChanges struct{ writer }

// PutRootChange stores a change in the place of old, which must be unchanged.
func (w *RootChanges) PutRootChange(
	ctx context.Context, old Stored[RootChange], next RootChange, events ...audit.Event,
) error {
	var c change
	rootChanges.replaceOrCreate(&c, old, next)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// CommittedRootChange is a change that the root has signed.
type CommittedRootChange struct {
	Change                 Stored[RootChange]
	OldKeyring, NewKeyring []byte        // the keyring's document before and after
	Chain                  []Authorities // before
	Authorities            Authorities   // follows the chain
}

// CommitRootChange stores the keyring's document and the authorities in one transaction, and removes the
// change. It returns fault Conflict if any of them was changed since it was read.
func (w *RootChanges) CommitRootChange(
	ctx context.Context, done CommittedRootChange, now time.Time, events ...audit.Event,
) error {
	keyring, err := keyrings.get(ctx, w.Reader, clusterKey)
	if err != nil {
		return err
	}
	if !bytes.Equal(keyring.Value, done.OldKeyring) {
		return conflictFault("state.CommitRootChange")
	}
	var c change
	if err := w.addAuthorities(ctx, &c, done.Chain, done.Authorities, now); err != nil {
		return err
	}
	keyrings.replace(&c, keyring, done.NewKeyring)
	rootChanges.remove(&c, done.Change)
	c.appendEvents(events...)
	_, err = w.commit(ctx, &c)
	return err
}
