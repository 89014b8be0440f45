package tsh

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
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

const (
	// handshakeTime bounds the SSH handshake with the node.
	handshakeTime = 30 * time.Second
	// maxBanner bounds, in bytes, what is kept of a node's messages.
	maxBanner = 8 << 10
)

// handshake is one SSH handshake with a node. It collects what explains a failure.
type handshake struct {
	app     *app
	profile *profile.Profile
	name    string // of the node
	login   identity.Login
	quiet   bool // do not print the banner

	mu      sync.Mutex // guards what follows: x/crypto calls back from goroutines of its own
	hostErr error      // why the host certificate was refused
	banner  strings.Builder
}

// run performs the handshake. It closes conn if that fails.
func (h *handshake) run(ctx context.Context, conn *nodeConn, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	packets := coalesce.NewSSHConn(conn)
	c, chans, reqs, err := ssh.NewClientConn(packets, h.name, cfg)
	if !stop() && err == nil { // ctx ended at the last moment and has closed conn
		err = context.Cause(ctx)
		_ = c.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return nil, h.explain(ctx, conn, err)
	}
	if b := terminal.CleanLines(h.banner.String()); b != "" && !h.quiet {
		fmt.Fprintln(h.app.Stderr, b)
	}
	packets.JoinPackets()
	return ssh.NewClient(c, chans, h.app.watchEndNotice(reqs)), nil
}

// checkHost accepts only a certificate of the cluster's host authority that names the intended node.
func (h *handshake) checkHost(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hostErr = identity.VerifySSHHost(key, h.name, h.profile.Authorities.HostSSH, h.app.Now())
	return h.hostErr
}

// keepBanner collects the banner. A hostile node may send any number of them, so it keeps at most maxBanner
// bytes.
func (h *handshake) keepBanner(msg string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.banner.Len()+len(msg) <= maxBanner {
		h.banner.WriteString(msg)
	}
	return nil
}

// explain turns a failed handshake into an error that a user can act on: the proxy's refusal, a wrong host,
// or the node's refusal. The caller holds mu.
func (h *handshake) explain(ctx context.Context, conn *nodeConn, err error) error {
	var expired *identity.ExpiredError
	var auth *ssh.ServerAuthError
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case conn.refused() != nil:
		return conn.refused()
	case errors.As(h.hostErr, &expired):
		hint := "check this machine's clock; if it is right, check threshold-node on " + h.name
		return fault.Wrap(err, fault.Expired, "", "the node's "+expired.Error(), hint)
	case h.hostErr != nil:
		return fault.Wrap(err, fault.Denied, "",
			"the server that answers is not node "+h.name+": "+h.hostErr.Error(),
			"log in again to get the current authorities: tsh login; "+
				"if that does not help, tell an administrator")
	case ctx.Err() != nil:
		return fault.Wrap(err, fault.Unavailable, "",
			"node "+h.name+" does not answer",
			"check that the machine runs, then try again")
	case strings.Contains(err.Error(), "unable to authenticate"), errors.As(err, &auth):
		return h.loginRefused(err)
	}
	return fault.Wrap(err, fault.Unavailable, "",
		"the connection to node "+h.name+" was interrupted: "+terminal.Clean(fault.DescribeNetwork(err)),
		"try again; if that does not help, check the log of threshold-node on the node")
}

// loginRefused is the error of a node that refuses the login. It contains the reason and the hint from the
// banner, if the node sent them.
func (h *handshake) loginRefused(err error) error {
	msg := fmt.Sprintf("node %s does not let you in as %s", h.name, h.login)
	hint := "see which logins you have there: tsh ls name=" + h.name
	if reason, nodeHint := parseRefusal(h.banner.String()); reason != "" {
		msg += ": " + reason
		hint = attributeHint(nodeHint, hint)
	}
	return fault.Wrap(err, fault.Denied, "", msg, hint)
}

// parseRefusal reads the reason and the hint from a message of a node. Its lines are "threshold: error: …"
// and "threshold: hint: …"; other lines count as reasons.
func parseRefusal(text string) (reason, hint string) {
	var reasons []string
	for line := range strings.SplitSeq(terminal.CleanLines(text), "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "threshold: ")
		if remedy, ok := strings.CutPrefix(line, "hint: "); ok {
			hint = remedy
		} else if line != "" {
			reasons = append(reasons, strings.TrimPrefix(line, "error: "))
		}
	}
	return strings.Join(reasons, "; "), hint
}

// attributeHint marks a node's hint as the node's, so that a hostile node cannot give advice in tsh's name.
// It returns own if the node gave no hint.
func attributeHint(nodeHint, own string) string {
	if nodeHint == "" {
		return own
	}
	return "the node says: " + nodeHint
}
