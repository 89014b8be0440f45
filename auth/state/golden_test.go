package state

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

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
		},
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
	}
	return decode[User](b)
}

// The golden records were written by the first version. Later ones read and write them like that.
func TestGoldenRecordsAreReadAndWritten(t *testing.T) {
	t.Parallel()
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
		var compact bytes.Buffer
		if err == nil {
			err = json.Compact(&compact, golden[key])
		}
		if err != nil || !bytes.Equal(written, compact.Bytes()) {
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
		got, err := decodeAs(record, with(`"d": {`, `"d": {"tomorrow": [1],`))
		if err != nil || !reflect.DeepEqual(got, record) {
			t.Errorf("%s with one more field: got %+v (%v), want it ignored", key, got, err)
		}
		for what, tt := range map[string]struct {
			record []byte
			want   string
		}{
			"one more critical field": {
				with(`"d": {`, `"critical": ["tomorrow"], "d": {"tomorrow": [1],`), `the field "tomorrow"`,
			},
			"the next version": {with(`"v": 1`, `"v": 2`), "version 2"},
			"no version":       {with(`"v": 1`, `"w": 1`), "no version"},
		} {
			if _, err := decodeAs(record, tt.record); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s with %s: got %v, want %q", key, what, err, tt.want)
			}
		}
	}
	known := strings.Replace(string(readGolden(t)["token/node-1"]), `"d": {`,
		`"critical": ["uses", "joined.time"], "d": {`, 1)
	if _, err := decode[Token]([]byte(known)); err != nil {
		t.Errorf("critical fields that are known: got %v", err)
	}
}
