package tsh

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

const (
	// keepaliveEvery and keepaliveMissed end a connection whose other side is gone: after 45 s.
	keepaliveEvery  = 15 * time.Second
	keepaliveMissed = 3
)

// connect opens an SSH connection to the node, verified end to end. A whole node name, the usual case, needs
// no call of the auth service. A first label or a machine's id is looked up there. With quiet, a banner is
// not printed.
func (a *app) connect(
	ctx context.Context,
	p *profile.Profile,
	d destination,
	quiet bool,
) (*ssh.Client, error) {
	if p.SSHCert == nil {
		return nil, noLogins(p)
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

// connectTo opens an SSH connection to the node with this whole name.
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

// watchEndNotice reads the node's global requests. It stores the reason that the node gives before it ends
// the connection and passes every other request on.
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

// lostConnection is the error of a connection without a session after it has ended. It contains the node's
// reason if the node gave one. It waits for watchEndNotice, because the notice may be the last thing that
// arrived.
func (a *app) lostConnection() error {
	a.endNoticeReaders.Wait()
	if text := a.endNotice.Load(); text != nil {
		if reason, hint := parseRefusal(*text); reason != "" {
			msg := "the node ended the connection: " + reason
			return fault.New(fault.Unavailable, "", msg, attributeHint(hint, "connect again"))
		}
	}
	return programExit{}.result()
}

// keepalive sends a request to the node every keepaliveEvery until ctx ends. It closes the connection if the
// node does not answer one for keepaliveMissed intervals.
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
