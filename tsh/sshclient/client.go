// Package sshclient answers: how does tsh speak SSH with a node?
//
// Connect verifies the node's host certificate and logs in with the user's certificate. A Client opens
// sessions, sends keepalives and keeps the reason that a node gives before it ends the connection. Refusals
// become faults with the node's reason; its hints are marked as the node's, because a node may be hostile.
// tsh calls it with a connection through the proxy.
package sshclient

import (
	"context"
	"crypto"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/terminal"
)

const (
	// keepaliveEvery and keepaliveMissed end a connection whose other side is gone: after 45 s.
	keepaliveEvery  = 15 * time.Second
	keepaliveMissed = 3
	// MaxMessage bounds, in bytes, what is kept of each message of a node: banner, end notice and refusal.
	MaxMessage = 8 << 10
)

// Config says who connects to which node. All fields are required but Refused.
type Config struct {
	Node            string // the whole name, which the host certificate must contain
	Login           identity.Login
	Key             crypto.Signer
	Cert            *ssh.Certificate // for Key
	HostAuthorities []ssh.PublicKey  // one of them must have signed the host certificate
	Now             func() time.Time
	// Refused returns why the connection below SSH was refused, or nil. It explains a failed handshake better
	// than SSH can.
	Refused func() error
}

// Client is an SSH connection to a node.
type Client struct {
	*ssh.Client
	banner string

	// endNotice is the reason that the node gives before it ends the connection; nil: none. The goroutine in
	// readers sets it; it ends with the connection.
	endNotice atomic.Pointer[string]
	readers   sync.WaitGroup
}

// Connect opens an SSH connection over conn. It closes conn if that fails.
func Connect(ctx context.Context, conn net.Conn, cfg Config) (*Client, error) {
	signer, err := certSigner(cfg)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	h := &handshake{cfg: cfg}
	return h.run(ctx, conn, &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers(HasAES())},
		User:              string(cfg.Login),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   h.checkHost,
		HostKeyAlgorithms: hostAlgorithms,
		BannerCallback:    h.keepBanner,
		ClientVersion:     dial.ClientVersion,
	})
}

// certSigner logs in with the certificate.
func certSigner(cfg Config) (ssh.Signer, error) {
	plain, err := ssh.NewSignerFromSigner(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("use the SSH key: %w", err)
	}
	signer, err := ssh.NewCertSigner(cfg.Cert, plain)
	if err != nil {
		return nil, fmt.Errorf("use the SSH certificate: %w", err)
	}
	return signer, nil
}

// Banner returns what the node sent before the login succeeded, safe to print. It may have several lines.
func (c *Client) Banner() string { return terminal.CleanLines(c.banner) }

// watchEndNotice reads the node's global requests. It stores the reason that the node gives before it ends
// the connection and passes every other request on.
func (c *Client) watchEndNotice(reqs <-chan *ssh.Request) <-chan *ssh.Request {
	rest := make(chan *ssh.Request)
	c.readers.Go(func() { // ends with the connection, which its owner closes
		defer close(rest)
		for r := range reqs {
			if r.Type != dial.EndNotice {
				rest <- r
				continue
			}
			text := string(r.Payload[:min(len(r.Payload), MaxMessage)])
			c.endNotice.Store(&text)
		}
	})
	return rest
}

// LostError is the error of a connection after it has ended. It contains the node's reason if the node gave
// one. It waits for watchEndNotice, because the notice may be the last thing that arrived.
func (c *Client) LostError() error {
	c.readers.Wait()
	if text := c.endNotice.Load(); text != nil {
		if reason, hint := ParseRefusal(*text); reason != "" {
			msg := "the node ended the connection: " + reason
			return fault.New(fault.Unavailable, "", msg, attributeHint(hint, "connect again"))
		}
	}
	return ErrLost
}

// ErrLost is the error of a connection that ended without a reason.
var ErrLost = fault.New(
	fault.Unavailable,
	"",
	"the connection to the node was lost",
	"connect again; if an administrator ended it, tsh status shows what you may still do",
)

// KeepAlive sends a request to the node every keepaliveEvery until ctx ends. It closes the connection if the
// node does not answer one for keepaliveMissed intervals.
func (c *Client) KeepAlive(ctx context.Context) {
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
