package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// Direct connects to the target of a channel that the client opens, accepts the channel, and copies bytes
// until both directions have ended or ctx ends. On an error the channel is neither accepted nor rejected yet.
func (f *Forwarder) Direct(ctx context.Context, nc ssh.NewChannel, to Target, rule string) error {
	sockets, err := f.cfg.Sockets()
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx, sockets, to, rule)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the SSH connection is closed
	}
	f.relay(ctx, activityChannel{ch, f.cfg.OnData}, reqs, conn)
	return nil
}

// connect audits the target and connects to it.
func (f *Forwarder) connect(ctx context.Context, sockets Sockets, to Target, rule string) (net.Conn, error) {
	if to.Path != "" {
		if err := f.audit(ctx, Local, to.String(), rule); err != nil {
			return nil, err
		}
		conn, err := sockets.DialUnix(ctx, to.Path)
		return conn, socketFault(err, to.Path)
	}
	addrs, err := f.resolveAllowed(ctx, to.Host)
	if err != nil {
		return nil, err
	}
	if err := f.audit(ctx, Local, to.String(), rule); err != nil {
		return nil, err
	}
	conn, err := dial(ctx, sockets, addrs, to.Port)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "node",
			fmt.Sprintf("from this node, %s cannot be reached: %s", to, fault.DescribeNetwork(err)),
			"check that it runs and that the node may reach it")
	}
	return conn, nil
}

// dial tries the addresses in turn. Each gets an equal share of the time that is left.
func dial(ctx context.Context, sockets Sockets, addrs []netip.Addr, port uint16) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for i, a := range addrs {
		deadline, _ := ctx.Deadline()
		share := time.Until(deadline) / time.Duration(len(addrs)-i)
		if conn, err = dialOne(ctx, sockets, netip.AddrPortFrom(a, port), share); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func dialOne(ctx context.Context, s Sockets, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.Dial(ctx, to)
}

// socketFault explains why a Unix socket cannot be used or made.
func socketFault(err error, path string) error {
	var explained *fault.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &explained):
		return err
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fault.Wrap(err, fault.Denied, "node",
			"on this node, the account may not use "+path+" (permission denied)",
			"use another path, or another account")
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.Wrap(err, fault.Conflict, "node",
			"on this node, "+path+" already exists", "remove it, or use another path")
	case errors.Is(err, syscall.ENOENT):
		return fault.Wrap(err, fault.NotFound, "node",
			"on this node, "+path+" does not exist",
			"correct the path, or start the program that listens there")
	}
	return fault.Wrap(err, fault.Unavailable, "node",
		"on this node, "+path+" cannot be used: "+fault.DescribeNetwork(err),
		"check that the program that listens there runs")
}
