package auth

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// parseSSH parses an SSH key or certificate in wire format.
func parseSSH(t *testing.T, b []byte) ssh.PublicKey {
	t.Helper()
	k, err := ssh.ParsePublicKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Host certificates are valid for the machine's own names and no others. The service certificate has the
// labels on record and is valid for a day.
func TestAMachinesCertificatesSayWhatIsOnRecord(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web", identity.Labels{"env": "prod"})
	p := s.join(identity.Proxy, "edge", nil, "access.example.com", "127.0.0.1")
	trust, err := rules.Open(s.auth.Pin(), n.res.Rules)
	s.must(err)
	id := string(n.res.Identity.ID)
	for _, tt := range []struct {
		m     *machine
		host  string
		valid bool
	}{
		{n, "web", true},
		{n, "web.example.com", true},
		{n, id, true},
		{n, id + ".example.com", true},
		{n, "edge", false},
		{n, "access.example.com", false},
		{p, "edge", true},
		{p, "access.example.com", true},
		{p, "127.0.0.1", true},
		{p, "web", false},
	} {
		cert := parseSSH(t, tt.m.res.SSHCert)
		err := identity.VerifySSHHost(cert, tt.host, trust.Authorities.HostSSH, time.Now())
		if (err == nil) != tt.valid {
			t.Errorf("%s as %s: got %v, want valid %v", tt.m.res.Identity.Name, tt.host, err, tt.valid)
		}
	}
	// tsh refuses a locked node by the id in its host certificate.
	ids := identity.HostMachineIDs(parseSSH(t, n.res.SSHCert))
	if len(ids) != 1 || ids[0] != n.res.Identity.ID {
		t.Errorf("got the ids %v in the host certificate, want the node's", ids)
	}
	leaf, err := x509.ParseCertificate(n.res.X509[0])
	s.must(err)
	peer, err := identity.VerifyX509(
		[]*x509.Certificate{leaf},
		"example.com",
		trust.Authorities.ServiceRoots,
		x509.ExtKeyUsageClientAuth,
		time.Now(),
		identity.Node,
	)
	s.must(err)
	latest := time.Now().Add(24*time.Hour + time.Minute)
	if peer.Labels["env"] != "prod" || peer.Name != "web" || peer.Expires.After(latest) {
		t.Errorf("got %+v, want web with its label, for a day", peer.Identity)
	}
}

// A renewed certificate has the machine's label as an administrator changed it, and the same id, name and
// key.
func TestARenewalTakesNothingFromTheCaller(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web", identity.Labels{"env": "prod"})
	labels := map[string]string{"env": "dev"}
	got, err := s.apply(s.user("alice", "admin"), "node", authrpc.Metadata{Name: "web", Labels: labels})
	s.must(err)
	if got.Note == "" {
		t.Error("got no note on when the labels take effect")
	}
	res, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: s.now()})
	s.must(err)
	if res.Identity.Labels["env"] != "dev" || res.Identity.ID != n.res.Identity.ID ||
		res.Identity.Name != "web" {
		t.Errorf("got %+v, want the same node with the label on record", res.Identity)
	}
	before := parseSSH(t, n.res.SSHCert).(*ssh.Certificate)
	after := parseSSH(t, res.SSHCert).(*ssh.Certificate)
	if string(before.Key.Marshal()) != string(after.Key.Marshal()) {
		t.Error("the renewed certificate is for another key")
	}
	late := authrpc.RenewRequest{Time: s.now().Add(-10 * time.Minute)}
	if _, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, late); !fault.Is(err, fault.Invalid) {
		t.Errorf("with a wrong clock: got %v, want invalid", err)
	}
}

// Every certificate has an issuance record. The audit log has one event for each join and each renewal.
func TestEveryIssuanceIsOnRecord(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web", nil)
	_, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: s.now()})
	s.must(err)
	recorded, err := s.state().ReadIssuances(t.Context(), 1, 100)
	s.must(err)
	var profiles []ca.Profile
	for _, b := range recorded {
		var r ca.Record
		s.must(json.Unmarshal(b, &r))
		profiles = append(profiles, r.Profile)
	}
	wantProfiles := []ca.Profile{
		ca.Service,          // auth's own
		ca.Host, ca.Service, // the join
		ca.Host, ca.Service, // the renewal
	}
	if !slices.Equal(profiles, wantProfiles) {
		t.Errorf("got records %v, want %v", profiles, wantProfiles)
	}
	var codes []audit.Code
	for _, e := range statetest.Events(t, s.state()) {
		codes = append(codes, e.Code)
	}
	wantCodes := []audit.Code{
		audit.ClusterCreated,
		audit.AuthStarted,
		audit.TokenCreated,
		audit.MachineJoined,
		audit.CertIssued,
		audit.CertRenewed,
	}
	if !slices.Equal(codes, wantCodes) {
		t.Errorf("got events %v, want %v", codes, wantCodes)
	}
}

func TestAuthRenewsItsOwnCertificateInPlace(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	before := s.auth.services.certificate.Certificate().Leaf
	client := s.client(nil)
	s.advance(25 * time.Hour)
	client.Close()
	// Denied is the API's own answer: the client has accepted the certificate.
	_, err := authrpc.Call(t.Context(), client, authrpc.Join, authrpc.JoinRequest{})
	if !fault.Is(err, fault.Denied) {
		t.Errorf("after a day: got %v, want denied", err)
	}
	after := s.auth.services.certificate.Certificate().Leaf
	if after.SerialNumber.Cmp(before.SerialNumber) == 0 {
		t.Error("got the same certificate after a day, want another")
	}
}

// The stream begins with the current rules, and a role that is added while it is open arrives on it.
func TestRulesStreamToAProxy(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	p := s.join(identity.Proxy, "edge", nil, "access.example.com")
	admin := s.user("alice", "admin")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	arrived := errors.New("the new role has arrived")
	first, err := rules.Open(s.auth.Pin(), p.res.Rules)
	s.must(err)
	machine, added := rules.NewReceiver(first, time.Now()), false
	receive := func(u authrpc.RulesUpdate) error {
		received, err := machine.Offer(time.Now(), u.Piece)
		if err != nil || received.InForce == nil {
			return err
		}
		if _, known := received.InForce.Policy.Roles["new"]; known {
			return arrived
		}
		if !added {
			added = true
			_, err = s.apply(admin, "role", authrpc.Metadata{Name: "new"})
		}
		return err
	}
	err = authrpc.Stream(ctx, p.Client, authrpc.WatchRules, authrpc.WatchRulesRequest{}, receive)
	if !errors.Is(err, arrived) {
		t.Errorf("got %v, want the new role on the stream", err)
	}
}
