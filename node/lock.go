package node

import (
	"errors"
	"os"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// lockDir makes the data directory and locks it against other nodes, until unlock is called or the process
// ends.
func lockDir(dir string) (unlock func(), err error) {
	const op = "node.Run"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		const remedy = "make it, owned by this account, or name another with --data"
		return nil, fault.Wrap(err, fault.Invalid, op, "the data directory "+dir+" cannot be made", remedy)
	}
	unlock, err = durable.Lock(dir)
	switch {
	case errors.Is(err, durable.ErrLocked):
		const remedy = "stop that node, or give this one a directory of its own with --data"
		return nil, fault.New(fault.Conflict, op, "another node uses the data directory "+dir, remedy)
	case errors.Is(err, os.ErrPermission):
		const remedy = "start the agent as the account that owns it, or name another with --data"
		return nil, fault.Wrap(err, fault.Invalid, op, "the data directory "+dir+" cannot be written", remedy)
	case err != nil:
		msg := "the data directory " + dir + " cannot be locked"
		return nil, fault.Wrap(err, fault.Internal, op, msg, "use a directory on a local disk")
	}
	return unlock, nil
}
