package node

import (
	"errors"
	"os"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// lockDir creates the data directory if it is missing, and locks it until unlock is called or this process
// ends: two nodes that used it at once would overwrite each other's files. The error is a fault: Conflict if
// another node has the lock, Invalid if the directory cannot be created or written, Internal if it cannot be
// locked.
func lockDir(dir string) (unlock func(), err error) {
	const op = "node.Run"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nodeDataNotCreated.Wrap(err, op, fault.Args{"folder": dir})
	}
	unlock, err = durable.Lock(dir)
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, nodeDataUsed.New(op, fault.Args{"folder": dir})
	case errors.Is(err, os.ErrPermission):
		return nil, nodeDataUnwritable.Wrap(err, op, fault.Args{"folder": dir})
	case err != nil:
		// Network and other special file systems may have no flock(2).
		return nil, nodeDataUnlockable.Wrap(err, op, fault.Args{"folder": dir})
	}
	return unlock, nil
}
