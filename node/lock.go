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
		const remedy = "create it, owned by this account, or name another with --data"
		return nil, fault.Wrap(err, fault.Invalid, op, "the data directory "+dir+" cannot be created", remedy)
	}
	unlock, err = durable.Lock(dir)
	switch {
	case errors.Is(err, durable.ErrLocked):
		const remedy = "stop that node, or give this one a directory of its own with --data"
		return nil, fault.New(fault.Conflict, op, "another node uses the data directory "+dir, remedy)
	case errors.Is(err, os.ErrPermission):
		const remedy = "start threshold-node as the account that owns it, or name another with --data"
		return nil, fault.Wrap(err, fault.Invalid, op, "the data directory "+dir+" cannot be written", remedy)
	case err != nil:
		// Network and other special file systems may have no flock(2).
		msg := "the data directory " + dir + " cannot be locked"
		const remedy = "name a directory on a local disk with --data: some network file systems have no locks"
		return nil, fault.Wrap(err, fault.Internal, op, msg, remedy)
	}
	return unlock, nil
}
