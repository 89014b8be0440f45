package wal

import (
	"errors"
	"sync"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// Latch remembers the first failure after which a replica must not write anything more: a write or fsync that
// failed, or a command that it cannot apply. That failure trips the latch, and nothing resets it. After one
// failed fsync the kernel may have dropped the pages, and a second fsync that succeeds would prove nothing.
//
// All methods may be called from any goroutine. They take no other lock.
type Latch struct {
	tripped chan struct{} // closed at the first failure

	mu    sync.Mutex // guards cause
	cause error      // the first failure; set once
}

// NewLatch returns a latch that has not tripped.
func NewLatch() *Latch { return &Latch{tripped: make(chan struct{})} }

// Trip keeps err as the failure, unless the latch has tripped before. It returns the failure that is kept.
func (l *Latch) Trip(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = err
		close(l.tripped)
	}
	return l.cause
}

// Err returns the latched failure, or nil.
func (l *Latch) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Tripped returns a channel that is closed at the first failure.
func (l *Latch) Tripped() <-chan struct{} { return l.tripped }

// DiskFault turns the error of a failed disk operation into a fault that tells the operator of the replica
// what it means. A full disk is fault Exhausted, anything else Internal. An error that is a fault already is
// returned unchanged.
func DiskFault(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if durable.IsDiskFull(err) {
		return diskFull.Wrap(err, "raftstore")
	}
	return diskFailed.Wrap(err, "raftstore")
}
