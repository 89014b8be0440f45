package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// Direct serves a channel by which the client opens a connection to target (ssh -L, -D, -W): it connects to
// the target, accepts the channel, and copies bytes until both directions or ctx have ended. rule is the rule
// that allows the forward, for the audit event. The error is a fault that says why there is no connection;
// the caller must then reject the channel.
func (f *Forwarder) Direct(ctx context.Context, newChannel ssh.NewChannel, target Target, rule string) error {
	sockets, err := f.cfg.Sockets()
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx, sockets, target, rule)
	if err != nil {
		return err
	}
	defer conn.Close()
	channel, requests, err := newChannel.Accept()
	if err != nil {
		return nil // the SSH connection is closed: there is nobody to tell
	}
	f.relay(ctx, activityChannel{channel, f.cfg.OnData}, requests, conn)
	return nil
}

// connect connects to the target. The forward is audited before the first packet is sent, and after the
// lookup of a name, so that forwards to addresses that are not allowed are refused without an event.
func (f *Forwarder) connect(
	ctx context.Context, sockets Sockets, target Target, rule string,
) (net.Conn, error) {
	if target.Path != "" {
		if err := f.audit(ctx, Local, target.String(), rule); err != nil {
			return nil, err
		}
		conn, err := sockets.DialUnix(ctx, target.Path)
		return conn, socketFault(err, target.Path)
	}
	addrs, err := f.resolveAllowed(ctx, target.Host)
	if err != nil {
		return nil, err
	}
	if err := f.audit(ctx, Local, target.String(), rule); err != nil {
		return nil, err
	}
	conn, err := dial(ctx, sockets, addrs, target.Port)
	if err != nil {
		return nil, forwardTargetUnreachable.Wrap(err, "node", fault.Args{
			"target": target,
			"why":    fault.DescribeNetwork(err),
		})
	}
	return conn, nil
}

// dial connects to the port of the first address that accepts. It tries the addresses in turn, each for an
// equal share of the time that is left of dialTimeout. If all fail it returns the error of the last.
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

// dialOne connects to one address, within timeout.
func dialOne(ctx context.Context, s Sockets, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.Dial(ctx, to)
}

// socketFault returns the fault that explains why the Unix socket at path cannot be used or made: nil for a
// nil error, and err itself if it is a fault already.
func socketFault(err error, path string) error {
	var explained *fault.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &explained):
		return err
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return forwardPathDenied.Wrap(err, "node", fault.Args{"path": path})
	case errors.Is(err, syscall.EADDRINUSE):
		return forwardPathExists.Wrap(err, "node", fault.Args{"path": path})
	case errors.Is(err, syscall.ENOENT):
		return forwardPathUnknown.Wrap(err, "node", fault.Args{"path": path})
	}
	return forwardPathUnusable.Wrap(err, "node", fault.Args{"path": path, "why": fault.DescribeNetwork(err)})
}
