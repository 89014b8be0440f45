package server

import (
	"errors"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
)

// Listen listens on a TCP address. The error is a fault of kind Conflict if the port is in use, Denied if
// this account may not use it, else Invalid. remedy says how to choose another address; it becomes a part of
// the fault's remedy.
func Listen(addr, remedy string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fault.Wrap(err, fault.Conflict, "server.Listen",
			addr+" is in use by another program", "end that program, or "+remedy)
	case errors.Is(err, syscall.EACCES):
		return nil, fault.Wrap(err, fault.Denied, "server.Listen",
			"this account may not listen on "+addr, "give the program CAP_NET_BIND_SERVICE, or "+remedy)
	}
	return l, fault.Wrap(err, fault.Invalid, "server.Listen", "cannot listen on "+addr, remedy)
}

// checkFolderOwner returns a fault if this process is root and the data folder belongs to another account.
// Root would write files there, keys among them, that the service could not read when it runs as that
// account.
func checkFolderOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return nil // the folder is made at the start, and belongs to whoever makes it
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || stat.Uid == 0 {
		return nil
	}
	owner := strconv.FormatUint(uint64(stat.Uid), 10)
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	return fault.New(fault.Denied, "threshold start",
		"the data folder "+dir+" belongs to the account "+owner+", and this is root",
		"run it as that account: runuser -u "+owner+" -- threshold start …; "+
			"or give the folder to root: chown -R root "+dir)
}
