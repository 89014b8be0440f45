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

// maxClockError is how far this machine's clock may differ from auth's at a join. With a greater difference
// certificates would fail later, with errors that are harder to understand.
const maxClockError = 5 * time.Minute

// join spends the token and saves the membership. Everything that can fail on this machine is tried before.
func join(ctx context.Context, cfg Config) (*document, error) {
	if cfg.Token == "" {
		return nil, fault.New(fault.Unauthenticated, "member.Join",
			"this machine is not a member yet, and there is no join token",
			"ask an administrator for one and start with --token-file FILE or THRESHOLD_TOKEN set",
		)
	}
	token, err := authrpc.ParseToken(cfg.Token)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "member.Join",
			err.Error(),
			"copy the whole token again, or ask an administrator for a new one",
		)
	}
	if token.Kind != cfg.Kind {
		return nil, fault.New(fault.Invalid, "member.Join",
			fmt.Sprintf("the join token is for a %s, and this machine is to be a %s", token.Kind, cfg.Kind),
			"ask an administrator for a token of kind "+string(cfg.Kind),
		)
	}
	if err := checkSpace(cfg.Dir); err != nil {
		return nil, err
	}
	k, err := loadOrCreateKeys(cfg.Dir)
	if err != nil {
		return nil, err
	}
	res, err := k.requestJoin(ctx, cfg, token)
	if err != nil {
		return nil, err
	}
	now := cfg.Now()
	if _, err := k.verify(cfg.Kind, token.Pin, res, now); err != nil {
		return nil, unverifiedFault(err, res.Time, now)
	}
	doc := &document{Pin: token.Pin, SSHCert: res.SSHCert, X509: res.X509, Rules: res.Rules}
	if err := doc.save(cfg.Dir); err != nil {
		return nil, err
	}
	cfg.Log.Info(
		"joined the cluster",
		"cluster", res.Identity.Cluster, "name", res.Identity.Name, "id", res.Identity.ID,
	)
	return doc, nil
}

// requestJoin calls auth, and trusts only the cluster that the token's pin names.
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
		identity.PinnedTLS(token.Pin, identity.AnyCluster, identity.ALPNAuth, nil, cfg.Now, identity.Auth),
	)
	defer client.Close()
	res, err = authrpc.Call(ctx, client, authrpc.Join, req)
	return res, explainCallError(err, cfg.Now())
}

// explainCallError turns an error of the connection into a fault that says what to do at this machine.
func explainCallError(err error, now time.Time) error {
	var pin *identity.PinError
	var old *identity.ExpiredError
	var alert tls.AlertError
	switch {
	case errors.As(err, &pin):
		return fault.Wrap(err, fault.Denied, "member.Join",
			"the server is not in the cluster that the token is for ("+pin.Error()+")",
			"check the proxy's address, and that the token is for this cluster",
		)
	case errors.As(err, &old):
		return fault.Wrap(err, fault.Invalid, "member.Join",
			fmt.Sprintf("this machine's clock says %s, and the cluster's certificate is valid from %s to %s",
				formatTime(now), formatTime(old.From), formatTime(old.Until)),
			setClock,
		)
	case errors.As(err, &alert):
		return fault.Wrap(err, fault.Unauthenticated, "member.Join",
			"auth refused this machine's certificate ("+alert.Error()+")",
			"ask an administrator whether this machine was removed; "+
				"if so, empty its data directory and join again with a new token",
		)
	}
	return err
}

const setClock = "set this machine's clock (timedatectl set-ntp true), then start again"

// unverifiedFault is for an answer that came from the right server and does not verify. A wrong clock is the
// most likely cause.
func unverifiedFault(err error, theirs, now time.Time) error {
	if off := now.Sub(theirs).Abs(); !theirs.IsZero() && off > identity.Skew {
		return fault.Wrap(err, fault.Invalid, "member.Join",
			fmt.Sprintf("this machine's clock says %s, and auth's says %s: they are %s apart",
				formatTime(now), formatTime(theirs), off.Round(time.Second)),
			setClock,
		)
	}
	return fault.Wrap(err, fault.Denied, "member.Join",
		"auth's answer cannot be verified ("+err.Error()+")",
		"check the proxy's address, and ask an administrator to check auth",
	)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ignoreTime makes verify ignore the certificates' validity periods: a membership is loaded after any length
// of time, and Run renews it.
var ignoreTime time.Time

// verify accepts an answer only if its rules verify under the pin, and its certificates are for this
// machine's keys and the kind, and signed by the authorities that the rules name. With ignoreTime for now it
// checks the certificates as of the middle of their validity period.
func (k keys) verify(
	kind identity.Kind,
	pin identity.Pin,
	res authrpc.JoinResponse,
	now time.Time,
) (*membership, error) {
	trust, err := rules.Open(pin, res.Rules)
	if err != nil {
		return nil, err
	}
	chain, err := parseChain(res.X509)
	if err != nil {
		return nil, err
	}
	if now.IsZero() {
		now = chain[0].NotBefore.Add(chain[0].NotAfter.Sub(chain[0].NotBefore) / 2)
	} else if off := now.Sub(res.Time).Abs(); off > maxClockError {
		return nil, fmt.Errorf("the clocks are %s apart", off.Round(time.Second))
	}
	peer, err := identity.VerifyPinned(chain, pin, trust.Cluster, now, kind)
	if err != nil {
		return nil, err
	}
	if _, err := identity.VerifyX509(chain, trust.Cluster, trust.Authorities.ServiceRoots,
		x509.ExtKeyUsageClientAuth, now, kind); err != nil {
		return nil, err
	}
	if !k.service.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("the service certificate is for another key")
	}
	host, err := k.hostSigner(res.SSHCert, peer.Name, trust, now)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: res.X509, PrivateKey: k.service, Leaf: chain[0]}
	return &membership{
		id:        peer.Identity,
		tls:       cert,
		host:      host,
		rules:     res.Rules,
		notBefore: chain[0].NotBefore,
	}, nil
}

// hostSigner verifies the host certificate and joins it with the host key.
func (k keys) hostSigner(wire []byte, name string, trust *rules.Trust, now time.Time) (ssh.Signer, error) {
	pub, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	if err := identity.VerifySSHHost(pub, name, trust.Authorities.HostSSH, now); err != nil {
		return nil, err
	}
	plain, err := ssh.NewSignerFromKey(k.host)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	cert := pub.(*ssh.Certificate) // VerifySSHHost accepts nothing else
	if !bytes.Equal(cert.Key.Marshal(), plain.PublicKey().Marshal()) {
		return nil, errors.New("the host certificate is for another key")
	}
	return ssh.NewCertSigner(cert, plain)
}

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
