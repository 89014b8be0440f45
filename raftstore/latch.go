package raftstore

import (
	"errors"
	"sync"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
)

// latch remembers the first failure after which this replica must not be trusted to keep anything: a write or
// fsync that failed, or a command it can not follow. It is never released; after fsync failed once the kernel
// may have dropped the pages, and a second fsync that succeeds would prove nothing.
type latch struct {
	tripped chan struct{} // closed at the first failure

	mu    sync.Mutex // guards why
	cause error
}

func newLatch() *latch { return &latch{tripped: make(chan struct{})} }

// trip latches err unless something else did before, and returns what is latched.
func (l *latch) trip(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = err
		close(l.tripped)
	}
	return l.cause
}

// err returns what is latched, or nil.
func (l *latch) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// diskFault says what a failed disk operation means for the person who runs this replica.
func diskFault(err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Wrap(
			err,
			fault.Exhausted,
			"raftstore",
			"the disk of this replica is full: nothing more is written, nothing written is lost",
			"free space in the data folder's file system, then restart auth",
		)
	}
	return fault.Wrap(
		err,
		fault.Internal,
		"raftstore",
		"the disk of this replica failed: nothing more is written",
		"check the disk (dmesg, smartctl), then restart auth; what was acknowledged is read again from disk",
	)
}
