package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

const (
	// firstOfferTimeout bounds the wait for the client's first offer of a key, and for a place among the
	// handshakes.
	firstOfferTimeout = 10 * time.Second
	// handshakeTimeout bounds all of the handshake, in which a person may have to touch a security key.
	handshakeTimeout = 30 * time.Second
)

// version is the server's identification string (RFC 4253 section 4.2). Its comment matters to clients that
// look for the name OpenSSH: they send the arguments of SSH_FXP_SYMLINK in the order that everybody uses and
// the specification does not.
const version = sshprofile.Version + " sftp-as-OpenSSH"

// loginAttempt is one handshake. It is used by one goroutine, that of Server.handshake.
type loginAttempt struct {
	Origin
	plainKeys int  // keys without a certificate that were offered
	explained bool // a certificate was offered, or the client was told that it needs one
	refused   bool // the rules refused the login: the client was told why, and it is in the audit log
}

// handshake runs the key exchange and the authentication under a deadline. It bounds how many handshakes run
// at once, in all and for each client address. Deadlines are in real time, whatever Config.Now says.
func (s *Server) handshake(
	ctx context.Context,
	conn net.Conn,
	attempt *loginAttempt,
) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	queued, cancel := context.WithTimeout(ctx, firstOfferTimeout)
	defer cancel()
	release, ok := s.handshakeQuota.Acquire(queued, attempt.From)
	if !ok {
		return nil, nil, nil, errors.New("too many handshakes at once")
	}
	defer release()
	cfg, err := s.sshConfig(attempt)
	if err != nil {
		return nil, nil, nil, err
	}
	start := time.Now()
	_ = conn.SetDeadline(start.Add(firstOfferTimeout))
	cfg.AuthLogCallback = func(ssh.ConnMetadata, string, error) {
		_ = conn.SetDeadline(start.Add(handshakeTimeout))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	packets := coalesce.NewSSHConn(conn)
	sc, opens, requests, err := ssh.NewServerConn(packets, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	packets.JoinPackets()
	return sc, opens, requests, conn.SetDeadline(time.Time{})
}

// sshConfig is made for each handshake, so that it has the current host certificate.
func (s *Server) sshConfig(attempt *loginAttempt) (*ssh.ServerConfig, error) {
	host, err := s.cfg.HostSigner()
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	cfg := sshprofile.NewServerConfig(host)
	cfg.ServerVersion = version
	cfg.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		return s.checkOffered(attempt, m, key)
	}
	cfg.VerifiedPublicKeyCallback = func(
		m ssh.ConnMetadata, _ ssh.PublicKey, p *ssh.Permissions, _ string,
	) (*ssh.Permissions, error) {
		return s.checkProven(attempt, m, p)
	}
	// OpenSSH, PuTTY and others try keyboard-interactive once their keys are used up. The server asks no
	// question and accepts no answer: it offers the method to tell a client that it needs a certificate.
	cfg.KeyboardInteractiveCallback = func(
		ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge,
	) (*ssh.Permissions, error) {
		return nil, attempt.noCertificateError(true)
	}
	return cfg, nil
}
