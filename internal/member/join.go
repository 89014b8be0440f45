package member

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// maxClockError is how far this machine's clock may differ from auth's at a join or renewal. With a greater
// difference certificates would fail to verify later, with errors that are harder to understand.
const maxClockError = 5 * time.Minute

// join makes this machine a member: it makes keys, sends them to auth with the join token, verifies the
// answer, saves it in cfg.Dir and returns it. The error is a fault that says what to do.
//
// Auth accepts a token once. So join first does everything that can fail on this machine: it checks the
// token, the disk and the keys. If it fails after the token was used, a new token is needed.
func join(ctx context.Context, cfg Config) (*savedMembership, error) {
	if cfg.Token == "" {
		return nil, joinTokenMissing.New("member.Join")
	}
	token, err := authrpc.ParseToken(cfg.Token)
	if err != nil {
		return nil, joinTokenMalformed.Wrap(err, "member.Join", fault.Args{"why": err.Error()})
	}
	if token.Kind != cfg.Kind {
		return nil, joinTokenOfOtherKind.New("member.Join", fault.Args{
			"token_kind": token.Kind,
			"kind":       cfg.Kind,
			"own_kind":   string(cfg.Kind),
		})
	}
	if err := checkDiskSpace(cfg.Dir); err != nil {
		return nil, err
	}
	machineKeys, err := loadOrCreateKeys(cfg.Dir)
	if err != nil {
		return nil, err
	}
	res, err := machineKeys.requestJoin(ctx, cfg, token)
	if err != nil {
		return nil, err
	}
	now := cfg.Now()
	// Only an answer that verifies is saved: otherwise the machine could not start again.
	if _, err := machineKeys.verifyMembership(cfg.Kind, token.Pin, res, now); err != nil {
		return nil, unverifiedFault(err, res.Time, now)
	}
	saved := &savedMembership{Pin: token.Pin, SSHCert: res.SSHCert, X509: res.X509, Rules: res.Rules}
	if err := saved.save(cfg.Dir); err != nil {
		return nil, err
	}
	cfg.Log.Info(
		"joined the cluster",
		"cluster", res.Identity.Cluster, "name", res.Identity.Name, "id", res.Identity.ID,
	)
	return saved, nil
}

// requestJoin asks auth to make this machine a member and returns auth's answer, which is not verified yet.
// It talks only to a server under the cluster root whose pin is in the token, because a token must not be
// shown to anybody else.
func (k keys) requestJoin(
	ctx context.Context,
	cfg Config,
	token authrpc.Token,
) (res authrpc.JoinResponse, err error) {
	req := authrpc.JoinRequest{
		Token:       token.String(),
		Kind:        cfg.Kind,
		Name:        cfg.Name,
		Labels:      cfg.Labels,
		PublicNames: cfg.PublicNames,
		Time:        cfg.Now(),
	}
	if req.SSHKey, req.X509Key, err = k.public(); err != nil {
		return res, err
	}
	sum := authrpc.JoinProof(req.Token, req.SSHKey, req.X509Key)
	if req.Proof, err = k.service.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		return res, fmt.Errorf("sign join request: %w", err)
	}
	client := cfg.newClient(
		cfg.AuthAddr,
		identity.PinnedTLS(
			token.Pin, identity.AnyCluster, identity.ALPNAuth, nil /* no certificate yet */, cfg.Now,
			identity.Auth,
		),
	)
	defer client.Close()
	res, err = authrpc.Call(ctx, client, authrpc.Join, req)
	return res, explainCallError(err, cfg.Now())
}

// explainCallError turns an error of a call to auth into a fault that says what to do at this machine: the
// remedies of package authrpc are meant for users of tsh. An error that it does not know, and nil, it returns
// as they are.
func explainCallError(err error, now time.Time) error {
	var wrongPin *identity.PinError
	var expired *identity.ExpiredError
	var alert tls.AlertError
	switch {
	case errors.As(err, &wrongPin):
		return joinPinWrong.Wrap(err, "member.Join", fault.Args{"why": wrongPin.Error()})
	case errors.As(err, &expired):
		return joinClockWrong.Wrap(err, "member.Join", fault.Args{
			"now":   formatTime(now),
			"from":  formatTime(expired.From),
			"until": formatTime(expired.Until),
		})
	case errors.As(err, &alert):
		return memberCertificateRefused.Wrap(err, "member.Join", fault.Args{"why": alert.Error()})
	}
	return err
}

const setClock = "set this machine's clock (timedatectl set-ntp true), then start again"

// unverifiedFault is for an answer that came from the right server, but in which verifyMembership found err.
// The most likely cause is a wrong clock on this machine, so the fault says that where the clocks differ.
// authTime is auth's clock, as the answer says; zero if it does not.
func unverifiedFault(err error, authTime, now time.Time) error {
	if apart := now.Sub(authTime).Abs(); !authTime.IsZero() && apart > identity.Skew {
		return memberClockWrong.Wrap(err, "member.Join", fault.Args{
			"now":       formatTime(now),
			"auth_time": formatTime(authTime),
			"gap":       apart.Round(time.Second),
		})
	}
	return memberAnswerInvalid.Wrap(err, "member.Join", fault.Args{"why": err.Error()})
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ignoreTime, as the time for verifyMembership, makes it ignore whether the certificates have expired. A
// machine that was switched off for a week must still be able to start, because Run renews the certificates.
var ignoreTime time.Time

// verifyMembership verifies what auth sent at a join or renewal, or what a file says that it sent, and
// returns it in a form that is ready to use. It checks that
//   - the rules are signed under the cluster root with the pin;
//   - the service certificate leads to that root, is signed by an authority that the rules list, and is for a
//     machine of the kind;
//   - the host certificate is signed by an authority that the rules list;
//   - both certificates are for the keys of this machine;
//   - everything is valid at now, and auth's clock differs from now by at most maxClockError. With ignoreTime
//     the certificates are checked as of the middle of their validity period, and auth's clock is not.
func (k keys) verifyMembership(
	kind identity.Kind,
	pin identity.Pin,
	res authrpc.JoinResponse,
	now time.Time,
) (*verifiedMembership, error) {
	trust, err := rules.Open(pin, res.Rules)
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(res.X509)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if now.Equal(ignoreTime) {
		now = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	} else if apart := now.Sub(res.Time).Abs(); apart > maxClockError {
		return nil, fmt.Errorf("the clocks are %s apart", apart.Round(time.Second))
	}
	// The certificate has two uses, so it is verified twice: as a server's, for clients that know only the
	// pin and verify up to the root; and as a client's, for auth, which trusts only the authorities in the
	// rules.
	peer, err := identity.VerifyPinned(chain, pin, trust.Cluster, now, kind)
	if err != nil {
		return nil, err
	}
	if _, err := identity.VerifyX509(chain, trust.Cluster, trust.Authorities.ServiceRoots,
		x509.ExtKeyUsageClientAuth, now, kind); err != nil {
		return nil, err
	}
	if !k.service.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the service certificate is for another key")
	}
	host, err := k.hostSigner(res.SSHCert, peer.Name, trust, now)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: res.X509, PrivateKey: k.service, Leaf: leaf}
	return &verifiedMembership{
		id:        peer.Identity,
		tls:       cert,
		host:      host,
		rules:     res.Rules,
		notBefore: leaf.NotBefore,
	}, nil
}

// hostSigner parses and verifies a host certificate and returns a signer with it and the host key. The
// certificate must be for that key, name the machine, and be signed by a host authority of the rules in
// trust.
func (k keys) hostSigner(
	certificate []byte,
	name string,
	trust *rules.Trust,
	now time.Time,
) (ssh.Signer, error) {
	pub, err := ssh.ParsePublicKey(certificate)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	if err := identity.VerifySSHHost(pub, name, trust.Authorities.HostSSH, now); err != nil {
		return nil, err
	}
	keySigner, err := ssh.NewSignerFromKey(k.host)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	cert := pub.(*ssh.Certificate) // VerifySSHHost accepts nothing else
	if !bytes.Equal(cert.Key.Marshal(), keySigner.PublicKey().Marshal()) {
		return nil, errors.New("the host certificate is for another key")
	}
	return ssh.NewCertSigner(cert, keySigner)
}

// parseChain parses the certificates, of which there must be at least one.
func parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("service certificate: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no service certificate")
	}
	return out, nil
}
