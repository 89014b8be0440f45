package sshd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// MaxAuthTries is how many keys a client may offer.
const MaxAuthTries = 6

// version is what the node calls itself; it does not say of which release it is. The comment is for clients
// that go by the name OpenSSH to send the arguments of SSH_FXP_SYMLINK in the order that everybody uses and
// the specification does not.
const version = "SSH-2.0-Threshold sftp-as-OpenSSH"

// evidence is what login hands on, through the Permissions of the key that was accepted and no other way
// (CVE-2024-45337).
type evidence struct {
	key   ssh.PublicKey // the certificate
	who   identity.SSHUser
	login identity.Login
	rule  string
}

type evidenceKey struct{}

// sshConfig is made anew for each connection, so that it shows the host certificate of the moment.
func (s *Server) sshConfig(v *loginAttempt) (*ssh.ServerConfig, error) {
	host, err := s.cfg.HostSigner()
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	cfg := &ssh.ServerConfig{
		// AES-GCM first: three times the speed of ChaCha20 where the processor helps. The key exchanges begin
		// with ML-KEM; the library's defaults would end with one by SHA-1.
		Config: ssh.Config{
			KeyExchanges: ssh.SupportedAlgorithms().KeyExchanges,
			Ciphers: []string{
				ssh.CipherAES128GCM,
				ssh.CipherAES256GCM,
				ssh.CipherChaCha20Poly1305,
				ssh.CipherAES128CTR,
				ssh.CipherAES256CTR,
			},
			MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		},
		MaxAuthTries:  MaxAuthTries,
		ServerVersion: version,
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return s.checkOffered(v, m, key)
		},
		KeyboardInteractiveCallback: func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			return nil, v.noCertificateError(true)
		},
		VerifiedPublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			return s.checkProven(v, m, p)
		},
	}
	for _, key := range identity.HostKeys(host) {
		cfg.AddHostKey(key)
	}
	return cfg, nil
}

// noCertificateError says that this login needs a certificate: once, and only if none was shown. Until its
// last try a client that holds many keys goes on unseen, so that nobody reads of an error who then gets in.
// OpenSSH, PuTTY and others try keyboard-interactive once their keys are used up; it asks nothing here and
// lets nobody in, and is there so that they can be told.
func (v *loginAttempt) noCertificateError(last bool) error {
	err := fault.New(
		fault.Unauthenticated,
		"node",
		"this node takes a certificate and nothing else; your client showed none",
		"run: tsh login, then name the certificate to your client, or connect by: tsh ssh",
	)
	if !last || v.explained {
		return err
	}
	v.explained = true
	return bannerError(err)
}

// checkOffered looks at a key that the client has not yet proved to hold: it verifies the certificate and
// nothing else, so that whoever shows somebody's certificate learns nothing of what its owner may do.
func (s *Server) checkOffered(
	v *loginAttempt,
	m ssh.ConnMetadata,
	key ssh.PublicKey,
) (*ssh.Permissions, error) {
	if _, ok := key.(*ssh.Certificate); !ok {
		v.plainKeys++
		return nil, v.noCertificateError(v.plainKeys == MaxAuthTries)
	}
	v.explained = true
	trust, now, err := s.currentRules()
	if err != nil {
		return nil, bannerError(err)
	}
	who, err := identity.VerifySSHUser(key, trust.Cluster, trust.Authorities.UserSSH, m.RemoteAddr(), now)
	if err != nil {
		s.cfg.Log.Info("certificate refused", "from", v.from, "proxy", v.proxy, "err", err)
		return nil, bannerError(certificateFault(err))
	}
	e := evidence{key: key, who: who, login: identity.Login(m.User())}
	return &ssh.Permissions{ExtraData: map[any]any{evidenceKey{}: e}}, nil
}

// checkProven decides about a client that has proved to hold the certificate.
func (s *Server) checkProven(
	v *loginAttempt,
	m ssh.ConnMetadata,
	p *ssh.Permissions,
) (*ssh.Permissions, error) {
	e, ok := evidenceOf(p)
	if !ok || e.login != identity.Login(m.User()) {
		return nil, errors.New("the accepted key carries no identity")
	}
	rule, err := s.admitLogin(e, clientAddr(v.from))
	if err != nil {
		v.refused = true
		s.auditRefusal(v, e, rule, "login", err)
		return nil, bannerError(err)
	}
	e.rule = rule
	p.ExtraData[evidenceKey{}] = e
	return p, nil
}

// admitLogin lets a login in that the certificate names, the rules grant something, and this machine has an
// account for.
func (s *Server) admitLogin(e evidence, from netip.Addr) (rule string, err error) {
	if s.isDraining() {
		return "", s.stopReason.err
	}
	if err := identity.CheckLogin(e.login); err != nil {
		return "", fault.Wrap(
			err,
			fault.Invalid,
			"node",
			"the login is no plain account name",
			"name an account of the node, as in ssh ACCOUNT@NODE",
		)
	}
	trust, now, err := s.currentRules()
	if err != nil {
		return "", err
	}
	d := s.decide(trust, e.who, e.login, "", now, from)
	if !d.Allow {
		return d.Rule, fault.New(fault.Denied, "node", d.Reason, d.Remedy)
	}
	_, err = s.cfg.Accounts.Admit(e.login)
	return d.Rule, err
}

func evidenceOf(p *ssh.Permissions) (evidence, bool) {
	if p == nil {
		return evidence{}, false
	}
	e, ok := p.ExtraData[evidenceKey{}].(evidence)
	return e, ok
}

// currentRules returns the rules of this moment, if they may be decided by at all.
func (s *Server) currentRules() (*rules.Trust, time.Time, error) {
	t, now := s.cfg.Rules(), s.cfg.Now()
	if t == nil {
		return nil, now, fault.New(
			fault.Unavailable,
			"node",
			"this node has no rules to decide by yet",
			"try again in a minute",
		)
	}
	if err := t.Usable(now); err != nil {
		return nil, now, fault.Wrap(
			err,
			fault.Unavailable,
			"node",
			"on this node, "+err.Error(),
			"ask an administrator to look at the node's clock and its way to the cluster",
		)
	}
	return t, now, nil
}

// actions are those that let a user in: all but listing the node.
var actions = slices.DeleteFunc(access.NodeActions(), func(a access.Action) bool { return a == access.List })

// decide asks the rules for one action, or with none whether any is allowed.
func (s *Server) decide(
	t *rules.Trust,
	who identity.SSHUser,
	login identity.Login,
	a access.Action,
	now time.Time,
	from netip.Addr,
) access.Decision {
	id := s.cfg.Identity()
	ask := access.Request{
		Who:   who.Identity,
		Node:  access.Node{ID: id.ID, Name: id.Name, Labels: id.Labels},
		Login: login,
		Now:   now,
		From:  from,
	}
	if !who.HasLogin(login) {
		return access.Decision{
			Reason: fmt.Sprintf(
				"the certificate of %s does not name the login %s (it names %s)",
				who,
				login,
				joinLogins(who.Logins),
			),
			Remedy: "use one of those logins; after a change of roles run: tsh login",
		}
	}
	if a != "" {
		ask.Action = a
		return access.Decide(t.Policy, ask)
	}
	var first access.Decision
	for i, a := range actions {
		ask.Action = a
		d := access.Decide(t.Policy, ask)
		if d.Allow {
			return d
		}
		if i == 0 || first.Rule == "" && d.Rule != "" {
			first = d
		}
	}
	return first
}

func joinLogins(logins []identity.Login) string {
	out := make([]string, len(logins))
	for i, l := range logins {
		out[i] = string(l)
	}
	return strings.Join(out, ", ")
}

// certificateFault says what to do about a certificate that does not verify.
func certificateFault(err error) error {
	var old *identity.ExpiredError
	switch {
	case !errors.As(err, &old):
		return fault.Wrap(err, fault.Denied, "node", err.Error(), "run: tsh login")
	case old.Now.Before(old.From):
		return fault.Wrap(
			err,
			fault.Denied,
			"node",
			"on this node, "+err.Error(),
			"ask an administrator to set the node's clock",
		)
	}
	return fault.Wrap(err, fault.Expired, "node", err.Error(), "run: tsh login")
}

// bannerError makes an error that the client shows to the person.
func bannerError(err error) error {
	return &ssh.BannerError{Err: err, Message: errorText(err, "\r\n")}
}

// errorText tell a fault as tsh does: what happened, then what helps.
func errorText(err error, newline string) string {
	out := "threshold: error: " + stripControls(fault.Message(err)) + newline
	if hint := fault.Remedy(err); hint != "" {
		out += "threshold: hint: " + stripControls(hint) + newline
	}
	return out
}

// stripControls drops what a terminal would obey: reasons carry names that others chose.
func stripControls(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// clientAddr gives the client's address for rules.
func clientAddr(from string) netip.Addr {
	ap, err := netip.ParseAddrPort(from)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
