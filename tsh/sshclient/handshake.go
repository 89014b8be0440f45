package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// handshakeTime bounds the SSH handshake with the node.
const handshakeTime = 30 * time.Second

// handshake is one SSH handshake with a node. It collects what explains a failure.
type handshake struct {
	cfg Config

	mu      sync.Mutex // guards what follows: x/crypto calls back from goroutines of its own
	hostErr error      // why the host certificate was refused
	banner  strings.Builder
}

// run performs the handshake. It closes conn if that fails.
func (h *handshake) run(ctx context.Context, conn net.Conn, cfg *ssh.ClientConfig) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	packets := coalesce.NewSSHConn(conn)
	c, chans, reqs, err := ssh.NewClientConn(packets, h.cfg.Node, cfg)
	if !stop() && err == nil { // ctx ended at the last moment and has closed conn
		err = context.Cause(ctx)
		_ = c.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return nil, h.explain(ctx, err)
	}
	packets.JoinPackets()
	client := &Client{banner: h.banner.String()}
	client.Client = ssh.NewClient(c, chans, client.watchEndNotice(reqs))
	return client, nil
}

// checkHost accepts only a certificate of a host authority that names the intended node.
func (h *handshake) checkHost(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hostErr = identity.VerifySSHHost(key, h.cfg.Node, h.cfg.HostAuthorities, h.cfg.Now())
	return h.hostErr
}

// keepBanner collects the banner. A hostile node may send any number of them, so it keeps at most MaxMessage
// bytes.
func (h *handshake) keepBanner(msg string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.banner.Len()+len(msg) <= MaxMessage {
		h.banner.WriteString(msg)
	}
	return nil
}

// explain returns the error of a failed handshake. err is that of x/crypto, which does not say enough: the
// cases are an interruption, a refusal of the layer below, a host certificate that is expired or wrong, no
// answer in time, a refused login, and a broken connection. Their order matters, because each may cause the
// ones after it. The caller holds mu.
func (h *handshake) explain(ctx context.Context, err error) error {
	var refused error
	if h.cfg.Refused != nil {
		refused = h.cfg.Refused()
	}
	node := h.cfg.Node
	var expired *identity.ExpiredError
	var auth *ssh.ServerAuthError
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case refused != nil:
		return refused
	case errors.As(h.hostErr, &expired):
		hint := "check this machine's clock; if it is right, check threshold-node on " + node
		return fault.Wrap(err, fault.Expired, "", "the node's "+expired.Error(), hint)
	case h.hostErr != nil:
		return fault.Wrap(err, fault.Denied, "",
			"the server that answers is not node "+node+": "+h.hostErr.Error(),
			"log in again to get the current authorities: tsh login; "+
				"if that does not help, tell an administrator")
	case ctx.Err() != nil:
		return fault.Wrap(err, fault.Unavailable, "",
			"node "+node+" does not answer",
			"check that the machine runs, then try again")
	case strings.Contains(err.Error(), "unable to authenticate"), errors.As(err, &auth):
		return h.loginRefusedFault(err)
	}
	return fault.Wrap(err, fault.Unavailable, "",
		"the connection to node "+node+" was interrupted: "+terminal.Clean(fault.DescribeNetwork(err)),
		"try again; if that does not help, check the log of threshold-node on the node")
}

// loginRefusedFault is the error of a node that refuses the login. It contains the reason and the hint from
// the banner, if the node sent them.
func (h *handshake) loginRefusedFault(err error) error {
	msg := fmt.Sprintf("node %s does not let you in as %s", h.cfg.Node, h.cfg.Login)
	hint := "see which logins you have there: tsh ls name=" + h.cfg.Node
	if reason, nodeHint := ParseRefusal(h.banner.String()); reason != "" {
		msg += ": " + reason
		hint = attributeHint(nodeHint, hint)
	}
	return fault.Wrap(err, fault.Denied, "", msg, hint)
}
