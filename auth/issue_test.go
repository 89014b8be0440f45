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

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// hostKey parses what join answered.
func hostKey(t *testing.T, b []byte) ssh.PublicKey {
	t.Helper()
	k, err := ssh.ParsePublicKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAMachinesCertificatesSayWhatIsOnRecord(t *testing.T) {
	w := newTestServer(t)
	n := w.join(identity.Node, "web", identity.Labels{"env": "prod"})
	p := w.join(identity.Proxy, "edge", nil, "access.example.com", "127.0.0.1")
	trust, err := rules.Open(w.auth.Pin(), n.res.Rules)
	w.must(err)
	id := string(n.res.Identity.ID)
	for _, tt := range []struct {
		m    *machine
		host string
		good bool
	}{
		{n, "web", true}, {n, "web.example.com", true}, {n, id, true}, {n, id + ".example.com", true}, {n, "edge", false}, {n, "access.example.com", false},
		{p, "edge", true}, {p, "access.example.com", true}, {p, "127.0.0.1", true}, {p, "web", false},
	} {
		err := identity.VerifySSHHost(
			hostKey(t, tt.m.res.SSHCert),
			tt.host,
			trust.Authorities.HostSSH,
			time.Now(),
		)
		if (err == nil) != tt.good {
			t.Errorf("%s as %s: got %v, want good %v", tt.m.res.Identity.Name, tt.host, err, tt.good)
		}
	}
	leaf, err := x509.ParseCertificate(n.res.X509[0])
	w.must(err)
	peer, err := identity.VerifyX509(
		[]*x509.Certificate{leaf},
		"example.com",
		trust.Authorities.ServiceRoots,
		x509.ExtKeyUsageClientAuth,
		time.Now(),
		identity.Node,
	)
	w.must(err)
	if peer.Labels["env"] != "prod" || peer.Name != "web" ||
		peer.Expires.After(time.Now().Add(24*time.Hour+time.Minute)) {
		t.Errorf("got %+v, want web with its label, for a day", peer.Identity)
	}
}

func TestARenewalTakesNothingFromTheCaller(t *testing.T) {
	w := newTestServer(t)
	n := w.join(identity.Node, "web", identity.Labels{"env": "prod"})
	apply := authrpc.ApplyResourceRequest{Resource: authrpc.Resource{Kind: "machine", Version: "v1",
		Metadata: authrpc.Metadata{
			Name:   "web",
			Labels: map[string]string{"env": "dev"},
		}, Spec: json.RawMessage(`{}`)}}
	got, err := authrpc.Call(t.Context(), w.user("alice", "admin"), authrpc.ApplyResource, apply)
	w.must(err)
	if got.Note == "" {
		t.Error("nobody is told when labels take effect")
	}
	res, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: w.now()})
	w.must(err)
	if res.Identity.Labels["env"] != "dev" || res.Identity.ID != n.res.Identity.ID ||
		res.Identity.Name != "web" {
		t.Errorf("got %+v, want the same node with the label on record", res.Identity)
	}
	old, fresh := hostKey(t, n.res.SSHCert).(*ssh.Certificate), hostKey(t, res.SSHCert).(*ssh.Certificate)
	if string(old.Key.Marshal()) != string(fresh.Key.Marshal()) {
		t.Error("the renewed certificate is for another key")
	}
	if _, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: w.now().Add(-10 * time.Minute)}); !fault.Is(
		err,
		fault.Invalid,
	) {
		t.Errorf("with a clock that is off: got %v, want invalid", err)
	}
}

func TestEveryIssuanceIsOnRecord(t *testing.T) {
	w := newTestServer(t)
	n := w.join(identity.Node, "web", nil)
	_, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: w.now()})
	w.must(err)
	recorded, err := w.state().ReadIssuances(t.Context(), 1, 100)
	w.must(err)
	var got []ca.Profile
	for _, b := range recorded {
		var r ca.Record
		w.must(json.Unmarshal(b, &r))
		got = append(got, r.Profile)
	}
	if want := []ca.Profile{ca.Service, ca.Host, ca.Service, ca.Host, ca.Service}; !slices.Equal(
		got,
		want,
	) { // auth's own, join, renewal
		t.Errorf("got records %v, want %v", got, want)
	}
	events, err := w.state().ReadEvents(t.Context(), 1, 100)
	w.must(err)
	var codes []audit.Code
	for _, e := range events {
		codes = append(codes, e.Event.Code)
	}
	want := []audit.Code{
		audit.ClusterCreated,
		audit.AuthStarted,
		audit.TokenCreated,
		audit.MachineJoined,
		audit.CertIssued,
		audit.CertRenewed,
	}
	if !slices.Equal(codes, want) {
		t.Errorf("got events %v, want %v", codes, want)
	}
}

func TestAuthRenewsItsOwnCertificateInPlace(t *testing.T) {
	w := newTestServer(t)
	before := w.auth.own.Load().Leaf
	client := w.client(nil)
	w.advance(25 * time.Hour)
	client.Close()
	if _, err := authrpc.Call(t.Context(), client, authrpc.Join, authrpc.JoinRequest{}); !fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("got %v after a day, want the room's own answer", err)
	}
	if after := w.auth.own.Load().Leaf; after.SerialNumber.Cmp(before.SerialNumber) == 0 {
		t.Error("got the certificate of yesterday")
	}
}

func TestRulesStreamToAProxy(t *testing.T) {
	w := newTestServer(t)
	p := w.join(identity.Proxy, "edge", nil, "access.example.com")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	enough := errors.New("enough")
	admin := w.user("alice", "admin")
	var trust *rules.Trust
	err := authrpc.Stream(
		ctx,
		p.Client,
		authrpc.WatchRules,
		authrpc.WatchRulesRequest{},
		func(u authrpc.RulesUpdate) (err error) {
			if trust == nil {
				if trust, err = rules.Open(w.auth.Pin(), u.Set); err != nil {
					return err
				}
				_, err = authrpc.Call(
					ctx,
					admin,
					authrpc.ApplyResource,
					authrpc.ApplyResourceRequest{Resource: authrpc.Resource{Kind: "role", Version: "v1",
						Metadata: authrpc.Metadata{Name: "new"}, Spec: json.RawMessage(`{}`)}},
				)
				return err
			}
			if trust, err = trust.Advance(u.Set); err != nil {
				return err
			}
			if _, known := trust.Policy["new"]; known {
				return enough
			}
			return nil
		},
	)
	if !errors.Is(err, enough) {
		t.Errorf("got %v, want the new role on the stream", err)
	}
}
