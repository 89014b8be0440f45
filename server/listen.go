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
		return nil, listenAddressUsed.Wrap(err, "server.Listen", fault.Args{"address": addr, "hint": remedy})
	case errors.Is(err, syscall.EACCES):
		return nil, listenAddressDenied.Wrap(err, "server.Listen", fault.Args{
			"address": addr,
			"hint":    remedy,
		})
	}
	return l, listenAddressUnusable.Wrap(err, "server.Listen", fault.Args{"address": addr, "hint": remedy})
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
	return dataFolderOfOtherAccount.New("threshold start", fault.Args{"folder": dir, "owner": owner})
}
