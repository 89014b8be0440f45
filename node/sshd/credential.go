package sshd

import (
	"crypto/sha256"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
)

// credential is a certificate of which the client has proved that it holds the key. Only verifiedBy changes.
type credential struct {
	key    ssh.PublicKey    // the certificate
	who    identity.SSHUser // the user, as the certificate says
	digest [sha256.Size]byte
	// verifiedBy is the revision of the authorities by which the certificate was last verified. By the same
	// authorities it can only have expired since.
	verifiedBy atomic.Pointer[rules.Revision]
}

// newCredential returns the credential of a certificate that these authorities have verified.
func newCredential(key ssh.PublicKey, who identity.SSHUser, authorities rules.Revision) *credential {
	c := &credential{key: key, who: who, digest: sha256.Sum256(key.Marshal())}
	c.verifiedBy.Store(&authorities)
	return c
}

// verify verifies the certificate again, at the time at. It verifies the signature, which takes a tenth of a
// millisecond, only if the authorities are other ones than the last time.
func (c *credential) verify(trust *rules.Trust, client net.Addr, at time.Time) error {
	if revision := authoritiesRevision(trust); revision != *c.verifiedBy.Load() {
		_, err := identity.VerifySSHUser(c.key, trust.Cluster, trust.Authorities.UserSSH, client, at)
		if err != nil {
			return err
		}
		c.verifiedBy.Store(&revision)
	}
	if !at.Before(c.who.Expires) {
		return &identity.ExpiredError{Until: c.who.Expires, Now: at}
	}
	return nil
}

// maxCredentials is how many certificates a client may show on one connection. Each is a login more.
const maxCredentials = 100

// credential returns the certificate that counts on the connection: the one that the client has shown last.
func (c *connection) credential() *credential {
	shown := *c.shown.Load()
	return shown[len(shown)-1]
}

// who returns the user of the connection, as the certificate that counts says.
func (c *connection) who() identity.SSHUser { return c.credential().who }

// credentialOf returns the certificate that a use names. A decision that began before the client showed a
// newer one still asks about the one before, which may be that of other connections too.
func (c *connection) credentialOf(use open.Use) *credential {
	for _, shown := range *c.shown.Load() {
		if shown.digest == use.Certificate {
			return shown
		}
	}
	return c.credential()
}

// takeCertificate serves a dial.CertificateUpdate: a newer certificate of the same user, which counts from
// then on, for what is open too. It must let the user log in as it would at a login. It runs on the goroutine
// of serveRequests. The error is a fault that says why the certificate does not count; nothing has changed
// then.
func (c *connection) takeCertificate(payload []byte) error {
	key, err := dial.OpenCertificateUpdate(c.conn.SessionID(), payload)
	if err != nil {
		return malformedFault(dial.CertificateUpdate, err)
	}
	trust, now, err := c.srv.currentRules()
	if err != nil {
		return err
	}
	client := c.conn.RemoteAddr()
	who, err := identity.VerifySSHUser(key, trust.Cluster, trust.Authorities.UserSSH, client, now)
	if err != nil {
		return certificateFault(err)
	}
	before := c.who()
	switch shown := *c.shown.Load(); {
	case who.UserKey() != before.UserKey():
		return certificateOfAnother.New("node", fault.Args{"user": who.Name, "owner": before.Name})
	case !who.Expires.After(before.Expires):
		return certificateNotNewer.New("node", fault.Args{"until": before.Expires.UTC().Format(time.RFC3339)})
	case len(shown) >= maxCredentials:
		return certificatesTooMany.New("node", fault.Args{"most": maxCredentials})
	}
	decision := c.srv.decide(trust, who, c.login, anyAction, now, c.origin)
	if !decision.Allow {
		err := accessDenied.New("node", fault.Args{"reason": decision.Reason, "hint": decision.Remedy})
		c.auditRefusal(decision.Rule, "certificate", err)
		return err
	}
	next := newCredential(key, who, authoritiesRevision(trust))
	shown := append(append([]*credential{}, *c.shown.Load()...), next)
	c.shown.Store(&shown)
	isOwn := func(h open.Holder) bool { return connectionOf(h) == c }
	c.srv.open.Change(isOwn, func(use open.Use) open.Use {
		use.Certificate = next.digest
		return use
	})
	c.wake() // the connection ends with this certificate
	c.srv.cfg.Log.Info("certificate replaced", "user", who.Name, "login", c.login, "from", c.origin.From,
		"connection", c.origin.Connection, "login_id", who.LoginID, "expires", who.Expires)
	return nil
}

// connectionOf returns the connection of what is open.
func connectionOf(h open.Holder) *connection {
	switch h := h.(type) {
	case *opened:
		return h.connection
	case *openConnection:
		return h.connection
	}
	return nil
}
