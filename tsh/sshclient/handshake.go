package sshclient

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// handshakeTime bounds the SSH handshake with the node.
const handshakeTime = 30 * time.Second

// handshake is one SSH handshake with a node. Its callbacks store why the host certificate was refused and
// what the node says, by which explain describes a failure.
type handshake struct {
	cfg Config

	mu      sync.Mutex // guards what is below, which callbacks set on goroutines of x/crypto/ssh
	hostErr error      // why the host certificate was refused; nil: it was accepted, or none has arrived
	denied  error      // what cfg.CheckMachine says of the host; nil: it may be used, or was refused before
	banner  strings.Builder
	refusal string // the last banner with a fault: why the node refuses the login; empty: none has arrived
}

// run performs the handshake over conn and returns the connected Client. It gives up after handshakeTime or
// when ctx ends. On an error it has closed conn; see explain for the faults.
func (h *handshake) run(ctx context.Context, conn net.Conn, cfg *ssh.ClientConfig) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends NewClientConn
	packets := coalesce.NewSSHConn(conn)
	sshConn, chans, reqs, err := ssh.NewClientConn(packets, h.cfg.Node, cfg) // closes packets on an error
	ctxEnded := !stop()
	if ctxEnded && err == nil { // conn was closed just after the handshake
		err = context.Cause(ctx)
		_ = sshConn.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return nil, h.explain(ctx, err)
	}
	packets.JoinPackets()
	client := &Client{banner: h.banner.String()}
	var features wire.Features
	if h.cfg.NodeFeatures != nil {
		features = h.cfg.NodeFeatures()
	}
	client.features.Store(&features)
	client.Client = ssh.NewClient(sshConn, chans, client.watchNotices(reqs))
	return client, nil
}

// checkHost is the callback for the node's host key. It accepts only a certificate that a host authority of
// the cluster signed, that names the node cfg.Node, and that is valid now, and of a machine that
// cfg.CheckMachine accepts. It keeps the error for explain.
func (h *handshake) checkHost(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hostErr = identity.VerifySSHHost(key, h.cfg.Node, h.cfg.HostAuthorities, h.cfg.Now())
	if h.hostErr != nil || h.cfg.CheckMachine == nil {
		return h.hostErr
	}
	for _, id := range identity.HostMachineIDs(key) {
		if h.denied = h.cfg.CheckMachine(id); h.denied != nil {
			return h.denied
		}
	}
	return nil
}

// keepBanner is the callback for banners, the messages that a node may send before the login has succeeded. A
// hostile node may send any number of them, so it keeps at most MaxMessage bytes and drops the rest.
func (h *handshake) keepBanner(msg string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, isFault := fault.ParseObject([]byte(msg)); isFault && len(msg) <= MaxMessage {
		h.refusal = msg
	} else if h.banner.Len()+len(msg) <= MaxMessage {
		h.banner.WriteString(msg)
	}
	return nil
}

// explain returns the error to show for a failed handshake. err is the error of x/crypto/ssh, which does not
// say enough. The cases are: context.Canceled if the user interrupted tsh, the refusal of the proxy, an
// Expired or a Denied fault for the host certificate, the error of cfg.CheckMachine, Unavailable for no
// answer in time, Denied for a refused login, and Unavailable for a broken connection. Their order matters:
// each can cause the errors of those after it, so the first that holds is the reason. The caller holds h.mu.
func (h *handshake) explain(ctx context.Context, err error) error {
	var refused error
	if h.cfg.Refused != nil {
		refused = h.cfg.Refused()
	}
	node := h.cfg.Node
	var expired *identity.ExpiredError
	var authErr *ssh.ServerAuthError
	loginRefused := strings.Contains(err.Error(), "unable to authenticate") || errors.As(err, &authErr)
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case refused != nil:
		return refused
	case errors.As(h.hostErr, &expired):
		return hostCertificateExpired.Wrap(err, "", fault.Args{"why": expired.Error(), "node": node})
	case h.hostErr != nil:
		return hostCertificateWrong.Wrap(err, "", fault.Args{"node": node, "why": h.hostErr.Error()})
	case h.denied != nil:
		return h.denied
	case ctx.Err() != nil:
		return nodeSilent.Wrap(err, "", fault.Args{"node": node})
	case loginRefused:
		return h.loginRefusedFault(err)
	}
	return nodeHandshakeInterrupted.Wrap(err, "", fault.Args{
		"node": node,
		"why":  terminal.Clean(fault.DescribeNetwork(err)),
	})
}

// loginRefusedFault is the error of a node that refuses the login. It contains the reason and the hint from
// the banner, if the node sent them.
func (h *handshake) loginRefusedFault(err error) error {
	refusal := ReadRefusal(h.refusal, err)
	if h.refusal == "" {
		refusal = ReadRefusal(h.banner.String(), err)
	}
	return nodeLoginRefused.Wrap(refusal.Err, "", fault.Args{
		"node":  h.cfg.Node,
		"login": h.cfg.Login,
		"why":   refusal.Why,
		"hint":  refusal.HintOr("see which logins you have there: tsh ls name=" + h.cfg.Node),
	})
}
