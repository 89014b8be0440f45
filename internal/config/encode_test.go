package config_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/config"
)

type listing struct {
	Zone  string          `json:"zone"`
	Count int             `json:"count"`
	TTL   time.Duration   `json:"ttl"`
	When  time.Time       `json:"when"`
	Tags  []string        `json:"tags"`
	None  []string        `json:"none,omitempty"`
	Map   map[string]any  `json:"map"`
	Raw   json.RawMessage `json:"raw"`
	Nil   *int            `json:"nil"`
	Metal config.Metadata `json:"metadata"`
}

// The output has the fields in the order of the struct and the keys of maps sorted. Texts that YAML would
// read as another type are in quotes.
func TestEncodeWritesFieldsInOrderUnderTheirNames(t *testing.T) {
	t.Parallel()
	v := listing{
		Zone:  "true",
		Count: 3,
		TTL:   90 * time.Minute,
		When:  time.Unix(0, 0).UTC(),
		Tags:  []string{"a", "1", "no"},
		Map: map[string]any{
			"b": false,
			"a": 1.5,
		},
		Raw:   json.RawMessage(`{"y":[1],"x":"z"}`),
		Metal: config.Metadata{Name: "n"},
	}
	const want = `zone: "true"
count: 3
ttl: 1h30m
when: "1970-01-01T00:00:00Z"
tags: [a, "1", "no"]
map:
  a: 1.5
  b: false
raw:
  "y": [1]
  x: z
nil: null
metadata:
  name: "n"
`
	var got bytes.Buffer
	if err := config.Encode(&got, v); err != nil {
		t.Fatal(err)
	}
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
}

func TestEncodeAllSeparatesDocuments(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	if err := config.EncodeAll(&got, options{TTL: time.Hour}, &options{TTL: 0}); err != nil {
		t.Fatal(err)
	}
	if want := "cert_ttl: 1h\nratio: 0\n---\ncert_ttl: 0s\nratio: 0\n"; got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
}

func TestEncodeOfAnUnsupportedTypeIsAnError(t *testing.T) {
	t.Parallel()
	if err := config.Encode(&strings.Builder{}, map[string]any{"f": func() {}}); err == nil {
		t.Error("got no error for a function")
	}
}

// No input makes the decoder panic. What Decode accepts is, once encoded, read back as the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(resources))
	f.Add(
		[]byte(
			"allow:\n - nodes: {env: [a, b], t: \"{{x}}\"}\n   logins: ['']\noptions: {cert_ttl: 1h, ratio: 1e3}\nfrom: [::/0]\n",
		),
	)
	f.Add([]byte("allow: &a [*a, <<, !!str x, ? y]\n"))
	f.Add([]byte("a: |\n  x\n\n---\n...\n\"\\x00\": 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := config.DecodeAll("f", data)
		if err == nil && len(docs) == 0 {
			t.Fatal("no document and no error")
		}
		for _, doc := range docs {
			_ = doc.Spec(&spec{})
		}
		var got, again spec
		if config.Decode("f", data, &got) != nil {
			return
		}
		var out bytes.Buffer
		if err := config.Encode(&out, got); err != nil {
			t.Fatalf("encode %+v: %v", got, err)
		}
		if err := config.Decode("out", out.Bytes(), &again); err != nil {
			t.Fatalf("decode again: %v\n%s", err, &out)
		}
		var second bytes.Buffer
		if err := config.Encode(&second, again); err != nil || second.String() != out.String() {
			t.Fatalf("got\n%s%v, want\n%s", &second, err, &out)
		}
	})
}
