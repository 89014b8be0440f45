package state

import (
	"context"
	"sync/atomic"

	"github.com/threshold-access/threshold/raftstore"
)

// Reader reads every record that holds no secret. It cannot write: of the store it holds only the methods
// that read. It is safe for concurrent use.
type Reader struct {
	store readStore
	// The last ones that were read: RoleSet and LockSet check whether they are still current.
	roleSet *atomic.Pointer[RoleSet]
	lockSet *atomic.Pointer[LockSet]
}

// readStore is the part of raftstore.Store that changes nothing.
type readStore interface {
	Get(ctx context.Context, key string) (raftstore.Item, error)
	List(ctx context.Context, prefix string, p raftstore.Page) (raftstore.Listing, error)
	Read(ctx context.Context, stream string, from uint64, limit int) ([]raftstore.Record, error)
	Watch(ctx context.Context, prefix string, after raftstore.Revision) (*raftstore.Watch, error)
	Linearize(ctx context.Context) error
	Empty(ctx context.Context) (bool, error)
}

// Linearize returns when every later read shows all writes that were acknowledged before the call. It fails
// when this replica does not lead.
func (r *Reader) Linearize(ctx context.Context) error { return r.store.Linearize(ctx) }

// Empty reports whether nothing was ever written, so that there is no cluster yet.
func (r *Reader) Empty(ctx context.Context) (bool, error) { return r.store.Empty(ctx) }
