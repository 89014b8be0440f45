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
	// firstOfferTimeout bounds the wait for a place among the handshakes. Then it bounds the handshake until
	// the client has first tried to log in.
	firstOfferTimeout = 10 * time.Second
	// handshakeTimeout bounds the whole handshake of a client that has tried to log in. Its user may have to
	// touch a security key meanwhile.
	handshakeTimeout = 30 * time.Second
)

// version is the server's identification string (RFC 4253 section 4.2). The text after the space is a comment
// for SFTP clients that look for the name OpenSSH: they send the arguments of SSH_FXP_SYMLINK in the order of
// OpenSSH, which is the one in use, and not in the order of the specification.
const version = sshprofile.Version + " sftp-as-OpenSSH"

// loginAttempt is one handshake. It is used by one goroutine, that of Server.handshake.
type loginAttempt struct {
	Origin
	plainKeys int  // keys without a certificate that were offered
	explained bool // the client needs no message about certificates: it offered one, or got the message
	refused   bool // the login was refused and audited, and the client was told why (checkProven)
}

// handshake runs the key exchange and the authentication of the client on conn. It returns the SSH connection
// of a client that is logged in, with the channel opens and global requests that it will send; the evidence
// of the login is in the connection's Permissions. The error is that of a handshake that failed, was refused,
// or took too long.
//
// The number of handshakes at once is bounded, in all and for each client address; a further one waits for up
// to firstOfferTimeout. Deadlines are in real time, whatever Config.Now says.
func (s *Server) handshake(
	ctx context.Context,
	conn net.Conn,
	attempt *loginAttempt,
) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	queueCtx, cancel := context.WithTimeout(ctx, firstOfferTimeout)
	defer cancel()
	release, ok := s.handshakeQuota.Acquire(queueCtx, attempt.From.String())
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
	// The first try to authenticate moves the deadline, and further tries do not: both deadlines count from
	// the start of the handshake.
	cfg.AuthLogCallback = func(ssh.ConnMetadata, string, error) {
		_ = conn.SetDeadline(start.Add(handshakeTimeout))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	packets := coalesce.NewSSHConn(conn)
	sshConn, opens, requests, err := ssh.NewServerConn(packets, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	packets.JoinPackets() // only now: it would hold back a packet of the handshake
	return sshConn, opens, requests, conn.SetDeadline(time.Time{})
}

// sshConfig returns the configuration of one handshake: the current host certificate, and the callbacks that
// decide about the client's keys. x/crypto calls them in this order: PublicKeyCallback for each key that is
// offered, and VerifiedPublicKeyCallback after the client has signed with one. The error is that there is no
// host certificate.
func (s *Server) sshConfig(attempt *loginAttempt) (*ssh.ServerConfig, error) {
	host, err := s.cfg.HostSigner()
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	cfg := sshprofile.NewServerConfig(host)
	cfg.ServerVersion = version
	cfg.PublicKeyCallback = func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		return s.checkOffered(attempt, meta, key)
	}
	cfg.VerifiedPublicKeyCallback = func(
		meta ssh.ConnMetadata, _ ssh.PublicKey, p *ssh.Permissions, _ string,
	) (*ssh.Permissions, error) {
		return s.checkProven(attempt, meta, p)
	}
	// OpenSSH, PuTTY and others try keyboard-interactive after their keys. The server offers this method only
	// to tell such a client that it needs a certificate: it asks no question and refuses each try.
	cfg.KeyboardInteractiveCallback = func(
		ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge,
	) (*ssh.Permissions, error) {
		return nil, attempt.noCertificateError(true /* the last try */)
	}
	return cfg, nil
}
