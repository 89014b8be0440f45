package state

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

// goldenRecords are the records in testdata/records.json, by their keys in the store.
func goldenRecords() map[string]any {
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	return map[string]any{
		"machine/0123456789abcdef0123456789abcdef": Machine{
			ID:      "0123456789abcdef0123456789abcdef",
			Kind:    identity.Proxy,
			Name:    "edge",
			Labels:  identity.Labels{"env": "prod", "self.rack": "7"},
			SSHKey:  []byte("host key"),
			X509Key: []byte("service key"),
			Names:   []string{"access.example.com", "10.0.0.1"},
			Aliases: []string{"access"},
			Created: at,
			Renewed: at.Add(16 * time.Hour),
		},
		"name/edge":          nameRecord{ID: "0123456789abcdef0123456789abcdef", Kind: identity.Proxy},
		"name/removed":       nameRecord{ID: "ff", Kind: identity.Node, Until: at},
		"public-name/access": publicNameRecord{Proxies: []identity.MachineID{"0123456789abcdef0123456789abcdef"}},
		"replica/auth-1": Replica{
			ID:      "ffffffffffffffffffffffffffffffff",
			Role:    VoterRole,
			Key:     []byte("pinned key"),
			Address: "auth-1.internal:3025",
			Created: at,
		},
		"token/node-1": Token{
			Hash:        []byte("hash"),
			Kind:        identity.Proxy,
			Uses:        3,
			Joined:      []JoinedMachine{{ID: "0123456789abcdef0123456789abcdef", Time: at}},
			NamePattern: "edge-*",
			Labels:      identity.Labels{"env": "prod"},
			PublicNames: []string{"access.example.com"},
			By:          "alice@example.com",
			Created:     at,
			Expires:     at.Add(30 * time.Minute),
			Refused:     1,
		},
		"token-hash/68617368": tokenName{Name: "node-1"},
		"users/corp/alice": User{
			Connector: "corp",
			Subject:   "alice",
			Name:      "alice@example.com",
			Roles:     []string{"ops"},
			Mapped:    []string{"dev"},
			Created:   at,
			LastLogin: at,

			LastIssued: at,
		},
		"last-issued/corp": issuedRecord{Time: at},
		"lock/2e4f5de1a0b3": access.Lock{
			ID: "2e4f5de1a0b3",
			Match: access.Facts{
				User:         access.UserFact{Connector: "corp", Subject: "alice"},
				Connector:    "corp",
				LoginID:      "login-1",
				Serial:       18446744073709551615,
				Role:         "dev",
				Account:      "root",
				Machine:      "0123456789abcdef0123456789abcdef",
				LoginProxy:   "0123456789abcdef0123456789abcdef",
				ViaProxy:     "0123456789abcdef0123456789abcdef",
				IssuedBefore: at.Add(time.Nanosecond),
				Since:        at.Add(-time.Hour),
			},
			Effect:  access.Effect{Kind: access.WithoutRole, Role: "ops"},
			Message: "the role was taken",
			Author:  "root@example.com",
			Created: at,
			End:     at.Add(24 * time.Hour),
		},
		"attempts/68617368": attemptRecord{Sealed: []byte("sealed"), Expires: at},
		"cluster/self": Cluster{
			Name:     "access.example.com",
			Seal:     "file:///etc/threshold/seal.key",
			Created:  at,
			LoginKey: []byte("sealed"),
		},
		"connectors/corp": connectorRecord{
			Connector: Connector{Spec: json.RawMessage(`{"type":"oidc"}`), Issuer: "https://login.example.com"},
			Sealed:    []byte("sealed"),
		},
		"connector-issuers/corp": issuerRecord{Issuer: "https://login.example.com"},
		"factors/corp/alice": factorsRecord{
			UserFactors: UserFactors{Recovery: [][]byte{[]byte("hash")}, WrongAnswers: 2, LockedUntil: at},
			Sealed: []sealedFactor{{
				Factor: Factor{
					ID:       "app-1",
					Kind:     "totp",
					Data:     json.RawMessage(`{"last":58000000}`),
					Enrolled: at,
					Proxy:    "edge",
				},
				Sealed: []byte("sealed"),
			}},
		},
		"logins/68617368": PendingLogin{
			Who:       identity.Identity{Kind: identity.User, Name: "alice@example.com", LoginID: "login-1"},
			Mapped:    []string{"dev"},
			Proxy:     identity.Identity{Kind: identity.Proxy, Name: "edge"},
			From:      netip.MustParseAddr("192.0.2.7"),
			Host:      ClientHost{Name: "build-1", Code: "BCDF-GHJK", Addr: netip.MustParseAddr("192.0.2.7")},
			Challenge: "challenge",
			MaxTTL:    time.Hour,
			AuthTime:  at,
			Expires:   at.Add(time.Minute),

			ConnectorRevision: 7,
		},
		"root-change/self": RootChange{Request: json.RawMessage(`{"v":1}`), Keys: json.RawMessage(`{"v":1}`)},
		"rules-term/self":  rulesTerm{Term: 1772352000},
		"spools/0123456789abcdef0123456789abcdef": storedPlaces{
			Spools: []spoolPlace{{Instance: "fedcba9876543210fedcba9876543210", Number: 7}},
		},
	}
}

var update = flag.Bool("update", false, "write the golden files")

// writeGolden writes the golden file from the records.
func writeGolden(t *testing.T) {
	t.Helper()
	out := map[string]any{}
	for key, record := range goldenRecords() {
		out[key] = envelope[any]{V: recordVersion, D: record}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join("testdata", "records.json"), append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readGolden returns the records of the golden file.
func readGolden(t *testing.T) map[string]json.RawMessage {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "records.json"))
	if err != nil {
		t.Fatal(err)
	}
	var records map[string]json.RawMessage
	if err := json.Unmarshal(b, &records); err != nil {
		t.Fatal(err)
	}
	for key, record := range records { // without the white space of the file
		var compact bytes.Buffer
		if err := json.Compact(&compact, record); err != nil {
			t.Fatal(err)
		}
		records[key] = compact.Bytes()
	}
	return records
}

// decodeAs decodes a record as the type of want.
func decodeAs(want any, b []byte) (any, error) {
	switch want.(type) {
	case Machine:
		return decode[Machine](b)
	case nameRecord:
		return decode[nameRecord](b)
	case publicNameRecord:
		return decode[publicNameRecord](b)
	case Replica:
		return decode[Replica](b)
	case Token:
		return decode[Token](b)
	case tokenName:
		return decode[tokenName](b)
	case attemptRecord:
		return decode[attemptRecord](b)
	case Cluster:
		return decode[Cluster](b)
	case connectorRecord:
		return decode[connectorRecord](b)
	case issuedRecord:
		return decode[issuedRecord](b)
	case access.Lock:
		return decode[access.Lock](b)
	case issuerRecord:
		return decode[issuerRecord](b)
	case factorsRecord:
		return decode[factorsRecord](b)
	case PendingLogin:
		return decode[PendingLogin](b)
	case RootChange:
		return decode[RootChange](b)
	case rulesTerm:
		return decode[rulesTerm](b)
	case storedPlaces:
		return decode[storedPlaces](b)
	}
	return decode[User](b)
}

// The golden records were written by the first version. Later ones read and write them like that.
func TestGoldenRecordsAreReadAndWritten(t *testing.T) {
	t.Parallel()
	if *update {
		writeGolden(t)
	}
	golden, want := readGolden(t), goldenRecords()
	if len(golden) != len(want) {
		t.Errorf("got %d golden records, want %d", len(golden), len(want))
	}
	for key, record := range want {
		got, err := decodeAs(record, golden[key])
		if err != nil || !reflect.DeepEqual(got, record) {
			t.Errorf("%s: got %+v (%v), want %+v", key, got, err, record)
		}
		written, err := json.Marshal(envelope[any]{V: recordVersion, D: record})
		if err != nil || !bytes.Equal(written, golden[key]) {
			t.Errorf("%s: wrote %s (%v), want %s", key, written, err, golden[key])
		}
	}
}

// A record of a newer release is read if it has a field that may be ignored. It is refused if the field is
// called critical, and if the record is of another version.
func TestRecordsOfANewerRelease(t *testing.T) {
	t.Parallel()
	for key, record := range goldenRecords() {
		text := string(readGolden(t)[key])
		with := func(old, text2 string) []byte { return []byte(strings.Replace(text, old, text2, 1)) }
		got, err := decodeAs(record, with(`"d":{`, `"d":{"tomorrow": [1],`))
		if err != nil || !reflect.DeepEqual(got, record) {
			t.Errorf("%s with one more field: got %+v (%v), want it ignored", key, got, err)
		}
		for what, tt := range map[string]struct {
			record []byte
			want   string
		}{
			"one more critical field": {
				with(`"d":{`, `"critical": ["tomorrow"], "d":{"tomorrow": [1],`), `the field "tomorrow"`,
			},
			"the next version": {with(`"v":1`, `"v": 2`), "version 2"},
			"no version":       {with(`"v":1`, `"w": 1`), "no version"},
		} {
			if _, err := decodeAs(record, tt.record); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s with %s: got %v, want %q", key, what, err, tt.want)
			}
		}
	}
	known := strings.Replace(string(readGolden(t)["token/node-1"]), `"d":{`,
		`"critical": ["uses", "joined.time"], "d":{`, 1)
	if _, err := decode[Token]([]byte(known)); err != nil {
		t.Errorf("critical fields that are known: got %v", err)
	}
}

// A release that changes a record keeps the fields of a newer one, with those that are critical.
func TestChangesKeepTheFieldsOfANewerRelease(t *testing.T) {
	t.Parallel()
	s := open(t)
	stored := putTestRecord(t, s, "a", "first")
	var c change
	newer := []byte(`{"v":1,"critical":["name"],"d":{"name":"first","tomorrow":{"x":[1]}}}`)
	testRecords.requireUnchanged(&c, stored)
	testRecords.put(&c, "a", newer, 0)
	_, err := s.writer.commit(t.Context(), &c)
	must(t, err)
	read, err := testRecords.get(t.Context(), s.Reader, "a")
	must(t, err)
	c = change{}
	testRecords.replace(&c, read, testRecord{Name: "second"})
	_, err = s.writer.commit(t.Context(), &c)
	must(t, err)
	item, err := s.writer.store.Get(t.Context(), "test/a")
	must(t, err)
	want := `{"v":1,"critical":["name"],"d":{"name":"second","tomorrow":{"x":[1]}}}`
	if string(item.Value) != want {
		t.Errorf("got %s, want %s", item.Value, want)
	}
}
