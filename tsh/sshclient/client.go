// Package sshclient answers: how does tsh connect to a node by SSH?
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
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/tsh/terminal"
)

const (
	// keepaliveEvery is the interval of keepalives. If the other side has stopped answering, the connection
	// is closed after keepaliveMissed intervals: 45 s.
	keepaliveEvery  = 15 * time.Second
	keepaliveMissed = 3
	// MaxMessage bounds, in bytes, what is kept of each message of a node: banner, end notice and refusal.
	MaxMessage = 8 << 10
	// clientVersion is for logs and captures alone: Features says what this client understands.
	clientVersion = "SSH-2.0-tsh"
)

// Features is what this client understands. The proxy tells the node: see dial.Request.
func Features() wire.Features { return wire.Features{dial.Faults, dial.CertificateUpdates} }

// Config says who connects to which node. All fields are required but NodeFeatures, CheckMachine and Refused.
type Config struct {
	Node            string // the whole name, which the host certificate must contain
	Login           identity.Login
	Key             crypto.Signer
	Cert            *ssh.Certificate // for Key
	HostAuthorities []ssh.PublicKey  // one of them must have signed the host certificate
	Now             func() time.Time
	// NodeFeatures returns what the node's server understands, as the proxy says. Connect calls it after the
	// handshake. It may be nil: then nothing is known until the node says it.
	NodeFeatures func() wire.Features
	// CheckMachine returns an error if the machine with this id, which the host certificate has, may not be
	// used. Connect returns it and logs in nowhere. It may be nil.
	CheckMachine func(identity.MachineID) error
	// Refused returns why the proxy refused the connection under SSH, or nil if it did not. Connect calls it
	// after a failed handshake: SSH itself only sees that the connection ended. It may be nil.
	Refused func() error
}

// Client is an SSH connection to a node.
type Client struct {
	*ssh.Client
	banner string

	// features is what the node's server understands: as the proxy said, and then as the node says. It is
	// never nil.
	features atomic.Pointer[wire.Features]
	// endNotice is the reason that the node gives before it ends the connection; nil: none so far. The
	// goroutine of watchNotices sets it.
	endNotice atomic.Pointer[string]
	readers   sync.WaitGroup // the goroutine of watchNotices, which ends with the connection
}

// Connect opens an SSH connection over conn. It accepts only the node cfg.Node, by its host certificate, and
// logs in with the user's certificate. The caller closes the Client, which closes conn. On an error Connect
// has closed conn. See handshake.explain for the faults.
func Connect(ctx context.Context, conn net.Conn, cfg Config) (*Client, error) {
	signer, err := certSigner(cfg)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	attempt := &handshake{cfg: cfg}
	return attempt.run(ctx, conn, &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers(HasAES())},
		User:              string(cfg.Login),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   attempt.checkHost,
		HostKeyAlgorithms: hostAlgorithms,
		BannerCallback:    attempt.keepBanner,
		ClientVersion:     clientVersion,
	})
}

// certSigner returns the signer by which SSH logs in: it shows cfg.Cert and signs with cfg.Key.
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

// ShowCertificate shows the node a newer certificate of the user, for the key, which then counts in the place
// of the one by which the client logged in. It returns a Denied fault with the node's reason if the node does
// not take it, and ErrLost if the connection has ended. A node that does not know how is not asked:
// ShowCertificate returns an Invalid fault.
func (c *Client) ShowCertificate(ctx context.Context, key crypto.Signer, cert *ssh.Certificate) error {
	if !c.Features().Has(dial.CertificateUpdates) {
		return certificateUpdateUnknown.New("")
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return fmt.Errorf("use the SSH key: %w", err)
	}
	payload, err := dial.SignCertificateUpdate(c.SessionID(), cert, signer)
	if err != nil {
		return err
	}
	type answer struct {
		taken bool
		text  []byte
		err   error
	}
	answered := make(chan answer, 1)
	go func() { // ends with the connection, which its owner closes
		taken, text, err := c.SendRequest(dial.CertificateUpdate, true, payload)
		answered <- answer{taken, text, err}
	}()
	var got answer
	select {
	case <-ctx.Done():
		return ctx.Err()
	case got = <-answered:
	}
	switch {
	case got.err != nil:
		return ErrLost
	case !got.taken:
		refusal := ReadRefusal(string(got.text[:min(len(got.text), MaxMessage)]), nil)
		return certificateUpdateRefused.New("", fault.Args{
			"why":  refusal.Why,
			"hint": refusal.HintOr(HintAskForRole),
		}).Because(refusal.Err)
	}
	return nil
}

// Banner returns what the node sent before the login succeeded, safe to print. It may have several lines.
func (c *Client) Banner() string { return terminal.CleanLines(c.banner) }

// Features is what the node's server understands. The node's own list, which comes soon after the login,
// takes the place of what the proxy said.
func (c *Client) Features() wire.Features { return *c.features.Load() }

// watchNotices starts a goroutine that reads the node's global requests. It stores what the node's server
// understands in c.features, and the reason that the node gives before it ends the connection in c.endNotice.
// It sends every other request to the channel that it returns. x/crypto/ssh reads that channel until it is
// closed.
func (c *Client) watchNotices(reqs <-chan *ssh.Request) <-chan *ssh.Request {
	others := make(chan *ssh.Request)
	c.readers.Go(func() { // ends with the connection, which the owner of the Client closes
		defer close(others)
		for request := range reqs {
			switch request.Type {
			case dial.FeaturesNotice:
				if features, err := dial.ParseFeatures(request.Payload); err == nil {
					c.features.Store(&features)
				}
			case dial.EndNotice:
				text := string(request.Payload[:min(len(request.Payload), MaxMessage)])
				c.endNotice.Store(&text)
			default:
				others <- request
			}
		}
	})
	return others
}

// LostError returns an Unavailable fault that says why the connection was lost: the node's reason, if the
// node gave one, else ErrLost. It may be called only after the connection has ended, because it first waits
// until watchNotices has read everything that arrived: the reason comes last.
func (c *Client) LostError() error {
	c.readers.Wait()
	if text := c.endNotice.Load(); text != nil {
		refusal := ReadRefusal(*text, nil)
		return nodeEndedConnection.New("", fault.Args{
			"why":  refusal.Why,
			"hint": refusal.HintOr("connect again"),
		}).Because(refusal.Err)
	}
	return ErrLost
}

// ErrLost is the error of a connection that ended without a reason.
var ErrLost = connectionLost.New("")

// KeepAlive sends a request to the node every keepaliveEvery until ctx ends or the connection is lost. While
// a request is unanswered, it sends no other. It closes the connection if no answer has come by the second
// tick after the request. So at most keepaliveMissed intervals pass after the other side has gone: nearly one
// until the next request, and two without an answer.
func (c *Client) KeepAlive(ctx context.Context) {
	tick := time.NewTicker(keepaliveEvery)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting, missed := false, 0 // waiting: a request is unanswered; missed: ticks since then
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
			if missed++; missed >= keepaliveMissed-1 { // the interval before the request counts too
				_ = c.Close()
				return
			}
		}
	}
}
