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

// Direct connects a channel that the client opens to its target, and moves bytes until both ends are done or
// ctx ends. An error means that the channel was not accepted, nor rejected yet.
func (f *Forwarder) Direct(ctx context.Context, nc ssh.NewChannel, to Target, rule string) error {
	as, err := f.cfg.Sockets()
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx, as, to, rule)
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return nil // the connection is gone
	}
	f.relay(ctx, activityChannel{ch, f.cfg.OnData}, reqs, conn)
	return nil
}

// connect records where something goes, and connects.
func (f *Forwarder) connect(ctx context.Context, as Sockets, to Target, rule string) (net.Conn, error) {
	if to.Path != "" {
		if err := f.audit(ctx, Local, to.String(), rule); err != nil {
			return nil, err
		}
		conn, err := as.DialUnix(ctx, to.Path)
		return conn, socketFault(err, to.Path)
	}
	addrs, err := f.resolveAllowed(ctx, to.Host)
	if err != nil {
		return nil, err
	}
	if err := f.audit(ctx, Local, to.String(), rule); err != nil {
		return nil, err
	}
	conn, err := dial(ctx, as, addrs, to.Port)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Unavailable,
			"node",
			fmt.Sprintf("from this node, %s cannot be reached: %s", to, fault.DescribeNetwork(err)),
			"see that it runs and that the node may reach it",
		)
	}
	return conn, nil
}

// dial tries one address after the other; each gets its share of the time.
func dial(ctx context.Context, as Sockets, addrs []netip.Addr, port uint16) (conn net.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for i, a := range addrs {
		deadline, _ := ctx.Deadline()
		share := time.Until(deadline) / time.Duration(len(addrs)-i)
		if conn, err = dialOne(ctx, as, netip.AddrPortFrom(a, port), share); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func dialOne(ctx context.Context, as Sockets, to netip.AddrPort, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return as.Dial(ctx, to)
}

// socketFault says why a Unix socket cannot be had.
func socketFault(err error, path string) error {
	var told *fault.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told):
		return err
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fault.Wrap(
			err,
			fault.Denied,
			"node",
			"on this node, the account may not use "+path+" (permission denied)",
			"use another path, or another account",
		)
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.Wrap(
			err,
			fault.Conflict,
			"node",
			"on this node, "+path+" is there already",
			"remove it, or use another path",
		)
	case errors.Is(err, syscall.ENOENT):
		return fault.Wrap(
			err,
			fault.NotFound,
			"node",
			"on this node, there is no "+path,
			"correct the path, or start what listens there",
		)
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"node",
		"on this node, "+path+" cannot be used: "+fault.DescribeNetwork(err),
		"see that it runs",
	)
}
