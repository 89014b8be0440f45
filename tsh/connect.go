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
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

const (
	// handshakeTime bounds the SSH handshake with the node.
	handshakeTime = 30 * time.Second
	// keepaliveEvery and keepaliveMissed end a connection whose other side is gone: after 45 s.
	keepaliveEvery  = 15 * time.Second
	keepaliveMissed = 3
	// maxBanner bounds what is kept of a node's words before authentication.
	maxBanner = 8 << 10
)

// destinationOf is a node and whom to be there.
type destinationOf struct {
	login identity.Login
	node  string
}

// parseDestination reads [user@]node, with -l as the user where no user@ is given.
func parseDestination(s, userFlag string) (destinationOf, error) {
	var d destinationOf
	login, node, at := cutLast(s, "@")
	if !at {
		login, node = userFlag, s
	}
	if login != "" || at {
		if err := identity.CheckLogin(identity.Login(login)); err != nil {
			return d, fault.Wrap(err, fault.Invalid, "", err.Error(), "write LOGIN@NODE, as ubuntu@web-1")
		}
	}
	name, err := nodeName(node)
	return destinationOf{identity.Login(login), name}, err
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// connect opens an SSH connection to the node, verified end to end. The whole name, as usually typed, costs
// no further question; a first label or a machine's id is asked of auth.
func (a *app) connect(
	ctx context.Context,
	p *profile.Profile,
	d destinationOf,
	quiet bool,
) (*ssh.Client, error) {
	if p.SSHCert == nil {
		return nil, fault.New(
			fault.Denied,
			"",
			"no role of "+p.User+" lets you log in to any node",
			"ask an administrator for a role, then run: tsh login",
		)
	}
	login, err := a.chooseLogin(p, d.login)
	if err != nil {
		return nil, err
	}
	name := d.node
	if machineID.MatchString(name) {
		n, err := a.resolve(ctx, p, name)
		if err != nil {
			return nil, err
		}
		name = n.Name
	}
	client, err := a.connectTo(ctx, p, login, name, quiet)
	if err == nil {
		return client, nil
	}
	if name, err = a.resolveAfterRefusal(ctx, p, name, err); err != nil {
		return nil, err
	}
	return a.connectTo(ctx, p, login, name, quiet)
}

// chooseLogin decides whom to be where no user@ is given: the only login, or the local user's name if it is
// among them.
func (a *app) chooseLogin(p *profile.Profile, asked identity.Login) (identity.Login, error) {
	if asked != "" {
		return asked, nil // the node says whether it may be
	}
	if len(p.Logins) == 1 {
		return p.Logins[0], nil
	}
	local := identity.Login(a.Getenv("USER"))
	for _, l := range p.Logins {
		if l == local {
			return l, nil
		}
	}
	return "", fault.New(
		fault.Invalid,
		"",
		"say as whom: your logins are "+join(p.Logins),
		"write LOGIN@NODE, as "+string(p.Logins[0])+"@NODE",
	)
}

func (a *app) connectTo(
	ctx context.Context,
	p *profile.Profile,
	login identity.Login,
	name string,
	quiet bool,
) (*ssh.Client, error) {
	conn, err := a.dialNode(ctx, p, name)
	if err != nil {
		return nil, err
	}
	plain, err := ssh.NewSignerFromSigner(p.SSHKey)
	if err != nil {
		return nil, fmt.Errorf("use the SSH key: %w", err)
	}
	signer, err := ssh.NewCertSigner(p.SSHCert, plain)
	if err != nil {
		return nil, fmt.Errorf("use the SSH certificate: %w", err)
	}
	h := &handshake{app: a, profile: p, name: name, login: login, quiet: quiet}
	cfg := &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers(hasAES())},
		User:              string(login),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   h.checkHost,
		HostKeyAlgorithms: hostAlgorithms,
		BannerCallback:    h.keepBanner,
		ClientVersion:     dial.ClientVersion,
	}
	return h.run(ctx, conn, cfg)
}

// handshake is one SSH handshake with a node, and what was learned of it should it fail.
type handshake struct {
	app     *app
	profile *profile.Profile
	name    string
	login   identity.Login
	quiet   bool // a banner is for nobody

	mu      sync.Mutex // guards what follows: x/crypto calls back from goroutines of its own
	hostErr error      // why the host certificate was refused
	banner  strings.Builder
}

func (h *handshake) run(ctx context.Context, conn *nodeConn, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	packets := coalesce.NewSSHConn(conn)
	c, chans, reqs, err := ssh.NewClientConn(packets, h.name, cfg)
	if !stop() && err == nil {
		err = context.Cause(ctx)
		_ = c.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return nil, h.explain(ctx, conn, err)
	}
	if b := cleanLines(h.banner.String()); b != "" && !h.quiet {
		fmt.Fprintln(h.app.Stderr, b)
	}
	packets.JoinPackets()
	return ssh.NewClient(c, chans, h.app.watchEndNotice(reqs)), nil
}

// watchEndNotice keeps a node's word on why it ends the connection, and hands every other global request on.
func (a *app) watchEndNotice(reqs <-chan *ssh.Request) <-chan *ssh.Request {
	rest := make(chan *ssh.Request)
	a.endNoticeReaders.Go(func() { // ends with the connection, which its owner closes
		defer close(rest)
		for r := range reqs {
			if r.Type != dial.EndNotice {
				rest <- r
				continue
			}
			text := string(r.Payload[:min(len(r.Payload), maxBanner)])
			a.endNotice.Store(&text)
		}
	})
	return rest
}

// lostConnection says why a connection without a session, which is over, ended: in the node's words, if it
// had any.
func (a *app) lostConnection() error {
	a.endNoticeReaders.Wait() // its last word may have come with the end
	if text := a.endNotice.Load(); text != nil {
		if why, hint := parseRefusal(*text); why != "" {
			return fault.New(
				fault.Unavailable,
				"",
				"the node ended the connection: "+why,
				said(hint, "connect again"),
			)
		}
	}
	return programExit{}.result()
}

// checkHost accepts only a certificate of the cluster's host authority that names the node that was meant.
func (h *handshake) checkHost(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hostErr = identity.VerifySSHHost(key, h.name, h.profile.Authorities.HostSSH, h.app.Now())
	return h.hostErr
}

func (h *handshake) keepBanner(msg string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.banner.Len()+len(msg) <= maxBanner {
		h.banner.WriteString(msg)
	}
	return nil
}

// explain turns a failed handshake into what a person can act on: the proxy's refusal, the node's words, or a
// wrong host.
func (h *handshake) explain(ctx context.Context, conn *nodeConn, err error) error {
	var old *identity.ExpiredError
	var auth *ssh.ServerAuthError
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case conn.refused() != nil:
		return conn.refused()
	case errors.As(h.hostErr, &old):
		return fault.Wrap(
			err,
			fault.Expired,
			"",
			"the node's "+old.Error(),
			"check this machine's clock; if it is right, look at threshold-node on "+h.name,
		)
	case h.hostErr != nil:
		return fault.Wrap(err, fault.Denied, "", "what answers is not node "+h.name+": "+h.hostErr.Error(),
			"log in again to learn of new authorities: tsh login; if it stays so, tell an administrator")
	case ctx.Err() != nil:
		return fault.Wrap(
			err,
			fault.Unavailable,
			"",
			"node "+h.name+" does not answer",
			"check that the machine runs; then try again",
		)
	case strings.Contains(err.Error(), "unable to authenticate"), errors.As(err, &auth):
		return h.loginRefused(err)
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"",
		"the connection to node "+h.name+" broke off: "+clean(fault.DescribeNetwork(err)),
		"try again; if it stays so, look at the log of threshold-node on it",
	)
}

// loginRefused tells the node's own reason, which it sends as a banner.
func (h *handshake) loginRefused(err error) error {
	msg, hint := fmt.Sprintf(
		"node %s does not let you in as %s",
		h.name,
		h.login,
	), "see which logins you have there: tsh ls name="+h.name
	if why, what := parseRefusal(h.banner.String()); why != "" {
		msg += ": " + why
		hint = said(what, hint)
	}
	return fault.Wrap(err, fault.Denied, "", msg, hint)
}

// parseRefusal reads a refusal in a node's words: lines "threshold: error: …" and "threshold: hint: …".
func parseRefusal(text string) (why, hint string) {
	var said []string
	for line := range strings.SplitSeq(cleanLines(text), "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "threshold: ")
		if remedy, ok := strings.CutPrefix(line, "hint: "); ok {
			hint = remedy
		} else if line != "" {
			said = append(said, strings.TrimPrefix(line, "error: "))
		}
	}
	return strings.Join(said, "; "), hint
}

// said tells a node's advice as the node's, so that none passes for tsh's own.
func said(hint, otherwise string) string {
	if hint == "" {
		return otherwise
	}
	return "the node says: " + hint
}

// keepalive asks the node for a sign of life until ctx ends, and closes a connection that gives none.
func keepalive(ctx context.Context, c *ssh.Client) {
	tick := time.NewTicker(keepaliveEvery)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting, missed := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-answered:
			if err != nil {
				return
			}
			waiting, missed = false, 0
		case <-tick.C:
			if !waiting {
				waiting = true
				go func() { // ends with the connection, which its owner closes
					_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
					answered <- err
				}()
				continue
			}
			if missed++; missed >= keepaliveMissed-1 {
				_ = c.Close()
				return
			}
		}
	}
}
