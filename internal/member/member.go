// Package member answers: how does a machine become, and stay, a member of the cluster?
//
// A node or proxy makes two keys that never leave it: an SSH host key and a service key for TLS. LoadOrJoin
// loads the membership from the data directory, or joins with a token. The pin in the token names the cluster
// to trust, and nothing that auth answers is saved before it has been verified under that pin. Run renews the
// certificates in place.
package member

import (
	"context"
	"crypto"
	"crypto/tls"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// Config says which machine wants to be a member, and where it keeps its keys.
type Config struct {
	// Dir holds keys and certificates. It is made with mode 0700 if it is missing. One that other accounts
	// may enter is refused.
	Dir string
	// Kind is identity.Node or identity.Proxy.
	Kind identity.Kind
	// AuthAddr is host:port of auth's port, or of a proxy that passes connections on to it.
	AuthAddr string
	// Fallbacks are further addresses, tried in turn when AuthAddr does not answer a renewal. They may be
	// empty.
	Fallbacks []string
	// Dialer connects to these addresses. Nil connects directly.
	Dialer authrpc.Dialer
	// Token is the text of the join token. Only the first join needs it.
	Token string
	// Name is what the machine proposes when it joins; auth decides. Labels are those that it gives itself.
	Name   string
	Labels identity.Labels
	// PublicNames are a proxy's public host names and addresses. A node has none.
	PublicNames []string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log receives what happens after the join; nil discards it.
	Log *slog.Logger
}

// Member is a machine that has joined. Its certificates change in place; its keys, name and cluster stay the
// same. It is safe for concurrent use.
type Member struct {
	cfg         Config
	keys        keys
	pin         identity.Pin
	current     atomic.Pointer[verifiedMembership]
	clients     []*authrpc.Client // one for each address
	clientIndex atomic.Int32      // which of clients is asked
}

// verifiedMembership is what the last join or renewal gave this machine. Only verifyMembership makes one. It
// is immutable.
type verifiedMembership struct {
	id        identity.Identity
	tls       *tls.Certificate // the service certificate with its key and chain
	host      ssh.Signer       // the host certificate with its key
	rules     rules.Set
	notBefore time.Time // of the service certificate
}

// LoadOrJoin returns this machine as a member of its cluster. It loads the membership from cfg.Dir. If there
// is none yet, it joins with cfg.Token and saves the membership there.
//
// A saved membership is verified again. It is accepted even if its certificates have expired, because Run
// renews them. A token of another cluster is refused. The error is a fault that says what to do.
func LoadOrJoin(ctx context.Context, cfg Config) (*Member, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	saved, err := readMembership(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if saved == nil { // not a member yet
		if saved, err = join(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if err := checkToken(cfg, saved.Pin); err != nil {
		return nil, err
	}
	return openMember(cfg, saved)
}

// checked returns cfg with its defaults filled in. It returns a fault if a required field is empty or the
// kind cannot join.
func (cfg Config) checked() (Config, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Token = strings.TrimSpace(cfg.Token)
	switch {
	case cfg.Dir == "":
		return cfg, memberFolderMissing.New("member.LoadOrJoin")
	case cfg.Kind != identity.Node && cfg.Kind != identity.Proxy:
		return cfg, memberKindInvalid.New("member.LoadOrJoin", fault.Args{"kind": string(cfg.Kind)})
	case cfg.AuthAddr == "":
		return cfg, memberAddressMissing.New("member.LoadOrJoin")
	}
	return cfg, nil
}

// newClient makes a client for auth at addr that connects as the configuration says.
func (cfg Config) newClient(addr string, trust *tls.Config) *authrpc.Client {
	if cfg.Dialer == nil {
		return authrpc.NewClient(addr, trust)
	}
	return authrpc.NewClientWithDialer(cfg.Dialer, addr, trust)
}

// checkToken returns a fault if cfg.Token is for another cluster than the saved membership, whose pin is pin.
// Whoever gave that token wants the machine to change clusters. It does so only when somebody removes the
// membership. A token that cannot be parsed is ignored, because a member needs none.
func checkToken(cfg Config, pin identity.Pin) error {
	if cfg.Token == "" {
		return nil
	}
	token, err := authrpc.ParseToken(cfg.Token)
	if err == nil && token.Pin != pin {
		return memberOfOtherCluster.New("member.LoadOrJoin", fault.Args{"folder": cfg.Dir})
	}
	return nil
}

// openMember verifies the saved membership against the keys in cfg.Dir, and makes the Member with one client
// for each address of auth. A membership that does not verify is a damagedFault.
func openMember(cfg Config, saved *savedMembership) (*Member, error) {
	machineKeys, err := loadKeys(cfg.Dir)
	if err != nil {
		return nil, err
	}
	verified, err := machineKeys.verifyMembership(cfg.Kind, saved.Pin, saved.joinResponse(), ignoreTime)
	if err != nil {
		return nil, damagedFault(cfg.Dir, err)
	}
	m := &Member{cfg: cfg, keys: machineKeys, pin: saved.Pin}
	m.current.Store(verified)
	trust := identity.PinnedTLS(
		m.pin, verified.id.Cluster, identity.ALPNAuth, m.TLSCertificate, cfg.Now, identity.Auth,
	)
	for _, addr := range append([]string{cfg.AuthAddr}, cfg.Fallbacks...) {
		m.clients = append(m.clients, cfg.newClient(addr, trust))
	}
	return m, nil
}

// Identity is this machine, by its current certificate.
func (m *Member) Identity() identity.Identity { return m.current.Load().id }

// Pin is the cluster's pin.
func (m *Member) Pin() identity.Pin { return m.pin }

// Key is the service key.
func (m *Member) Key() crypto.Signer { return m.keys.service }

// TLSCertificate is the current service certificate, leaf first, cluster root last.
func (m *Member) TLSCertificate() (*tls.Certificate, error) { return m.current.Load().tls, nil }

// HostSigner is the host key with its current certificate.
func (m *Member) HostSigner() (ssh.Signer, error) { return m.current.Load().host, nil }

// FirstRules is the verified set of rules that came with the last join or renewal.
func (m *Member) FirstRules() rules.Set { return m.current.Load().rules }

// Auth is the client for auth. Each new connection uses the certificate that is current then.
func (m *Member) Auth() *authrpc.Client { return m.clients[int(m.clientIndex.Load())%len(m.clients)] }

// TryNext makes Auth return the client for the next address; after the last one it starts over. A caller does
// that when the current address does not answer.
func (m *Member) TryNext() { m.clientIndex.Add(1) }
