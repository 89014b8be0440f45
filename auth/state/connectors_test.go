package state

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
)

// withIssuer is a connector for the issuer.
func withIssuer(issuer string) Connector {
	return Connector{Spec: []byte(`{}`), Issuer: issuer}
}

func TestConnectorsAreReadWithTheirSecret(t *testing.T) {
	t.Parallel()
	v := NewVault(open(t), fakeSeal{})
	if _, err := v.Connectors.Connector(t.Context(), "corp"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
	corp := Connector{Spec: []byte(`{"type":"oidc"}`), Secret: "s3cret"}
	must(t, v.Connectors.PutConnector(t.Context(), StoredConnector{Name: "corp"}, corp, nil, byNow()))
	all, err := v.Connectors.ListConnectors(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "corp" || all[0].Secret != "s3cret" ||
		string(all[0].Spec) != `{"type":"oidc"}` {
		t.Fatalf("got %+v and %v, want the one written", all, err)
	}
	must(t, v.Connectors.PutConnector(t.Context(), all[0], Connector{Spec: []byte(`{}`)}, nil, byNow()))
	if err := v.Connectors.RemoveConnector(t.Context(), all[0], byNow()); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v for the removal of an old revision, want a conflict", err)
	}
}

// A user is (connector, subject): with another issuer the same subject is another person.
func TestConnectorNameIsBoundToItsIssuer(t *testing.T) {
	t.Parallel()
	v := NewVault(open(t), fakeSeal{})
	put := func(issuer string) error {
		old, err := v.Connectors.Connector(t.Context(), "corp")
		if !fault.Is(err, fault.NotFound) {
			must(t, err)
		}
		old.Name = "corp"
		return v.Connectors.PutConnector(t.Context(), old, withIssuer(issuer), nil, byNow())
	}
	refused := func(when string) {
		t.Helper()
		err := put("https://other.example")
		if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Remedy(err), "another name") {
			t.Errorf("%s: got %v (%s), want a conflict whose remedy is another name",
				when, err, fault.Remedy(err))
		}
	}
	for range 2 {
		must(t, put("https://one.example"))
	}
	refused("while the connector exists")
	stored, err := v.Connectors.Connector(t.Context(), "corp")
	if err != nil || stored.Issuer != "https://one.example" {
		t.Fatalf("got %+v and %v, want the first issuer", stored, err)
	}
	must(t, v.Connectors.RemoveConnector(t.Context(), stored, byNow()))
	refused("after its removal")
	if err := put("https://one.example"); err != nil {
		t.Errorf("got %v for the first issuer again, want none", err)
	}
}

func TestInitialConnectorNameIsBoundToItsIssuer(t *testing.T) {
	t.Parallel()
	v := NewVault(open(t), fakeSeal{})
	must(t, v.CreateCluster(t.Context(), InitialRecords{
		Keyring:    []byte(`{}`),
		Connectors: []NamedConnector{{"corp", withIssuer("https://one.example")}},
	}))
	old, err := v.Connectors.Connector(t.Context(), "corp")
	must(t, err)
	err = v.Connectors.PutConnector(t.Context(), old, withIssuer("https://other.example"), nil, byNow())
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}
