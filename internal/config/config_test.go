package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

type rule struct {
	Nodes  map[string]config.Strings `yaml:"nodes"`
	Logins []string                  `yaml:"logins" config:"required"`
}

// Check is a rule about the meaning: root needs a node.
func (r *rule) Check(report func(path, format string, args ...any)) {
	for i, login := range r.Logins {
		if login == "root" && len(r.Nodes) == 0 {
			report(fmt.Sprintf("logins[%d]", i), "root on every node is refused")
		}
	}
}

type options struct {
	TTL   time.Duration `yaml:"cert_ttl"`
	Ratio float64       `                json:"ratio"`
}

type spec struct {
	Allow   []rule         `yaml:"allow"             config:"required"`
	Options *options       `yaml:"options,omitempty"`
	From    []netip.Prefix `yaml:"from,omitempty"`
	Limit   int8           `yaml:"limit,omitempty"`
	Port    uint16         `yaml:"port,omitempty"`
	Strict  bool           `yaml:"strict,omitempty"`
	Hidden  string         `yaml:"-"`
}

// One file with each kind of value is read into the struct that it describes.
func TestDecodeReadsEveryKindOfValue(t *testing.T) {
	t.Parallel()
	const in = `
# a comment
allow:
  - nodes: {env: [staging, prod], team: web}
    logins: ["{{traits.unix}}", ubuntu]
options: {cert_ttl: 8h, ratio: 0.5}
from: [10.0.0.0/8, "fd00::/8"]
limit: -5
port: 0x1F90
strict: true
`
	var got spec
	if err := config.Decode("r.yaml", []byte(in), &got); err != nil {
		t.Fatal(err)
	}
	want := spec{
		Allow: []rule{
			{
				Nodes:  map[string]config.Strings{"env": {"staging", "prod"}, "team": {"web"}},
				Logins: []string{"{{traits.unix}}", "ubuntu"},
			},
		},
		Options: &options{TTL: 8 * time.Hour, Ratio: 0.5},
		From:    []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Limit:   -5, Port: 8080, Strict: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A file with eleven faults is reported whole, each fault with its line and in the order of lines, so that
// its author can correct all at once.
func TestDecodeReportsAllFaultsAtOnceWithLines(t *testing.T) {
	t.Parallel()
	const in = `allow:
  - nodes: {env: prod}
    loginz: [ubuntu]
  - logins: [ubuntu, root]
  - logins: 7
options:
  cert_ttl: 600
  ratio: fast
from: [10.0.0.0/33]
limit: 1000
strict: maybe
zzzzzz: 1
port:
Hidden: x
`
	want := []string{
		`r.yaml:3: allow[0].loginz: unknown key, did you mean "logins"?`,
		`r.yaml:4: allow[1].logins[1]: root on every node is refused`,
		`r.yaml:5: allow[2].logins: must be a list, not a number`,
		`r.yaml:7: options.cert_ttl: a duration needs a unit, as 600s`,
		`r.yaml:8: options.ratio: must be a number, not text`,
		`r.yaml:9: from[0]: netip.ParsePrefix("10.0.0.0/33"): prefix length out of range`,
		`r.yaml:10: limit: "1000" is out of range`,
		`r.yaml:11: strict: must be true or false, not text`,
		`r.yaml:12: zzzzzz: unknown key; known here: allow, options, from, limit, port, strict`,
		`r.yaml:13: port: has no value: give one, or remove the key`,
		`r.yaml:14: Hidden: unknown key; known here: allow, options, from, limit, port, strict`,
	}
	err := config.Decode("r.yaml", []byte(in), &spec{})
	wantFaults(t, err, want)
}

func wantFaults(t *testing.T, err error, want []string) {
	t.Helper()
	var fs config.Faults
	if !errors.As(err, &fs) {
		t.Fatalf("got %v, want faults", err)
	}
	if got := strings.Split(fs.Error(), "\n"); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Each case is a file with one fault, and the message that its author gets.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, want string }{
		{"nothing where something is required", "", `f:1: allow: is required but missing`},
		{"only comments where something is required", "# x\n", `f:1: allow: is required but missing`},
		{"a list for the whole", "- a\n", `f:1: the file: must be keys and values, not a list`},
		{"text for the whole", "hello\n", `f:1: the file: must be keys and values, not text`},
		{
			"a second document",
			"allow: []\n---\nallow: []\n",
			`f:3: a second document begins here, but this file may have only one`,
		},
		{"bad syntax", "allow: [\nlimit: 1\n", `f:2: not valid YAML: did not find expected ',' or ']'`},
		{"a tab", "allow:\n\t- x\n", `f:2: not valid YAML: found character that cannot start any token`},
		{
			"duplicate keys",
			"allow: []\nport: 1\nport: 2\n",
			`f:3: duplicate key "port": it is on line 2 already`,
		},
		{
			"an anchor",
			"allow: &a []\n",
			`f:1: anchors (&a) are not supported: write the value out where it is needed`,
		},
		{
			"a merge key",
			"allow: []\n<<: {port: 1}\n",
			`f:2: merge keys (<<) are not supported: write the keys out`,
		},
		{"a tag", "allow: !!seq []\n", `f:1: tags (!!seq) are not supported: remove it`},
		{"a foreign tag", "allow: !go []\n", `f:1: tags (!go) are not supported: remove it`},
		{"a list as a key", "allow: []\n? [a]\n: b\n", `f:2: a key must be text`},
		{"a null key", "allow: []\n~: b\n", `f:2: a key must be text`},
		{
			"a number where text is expected",
			"allow: [{logins: [1]}]",
			`f:1: allow[0].logins[0]: must be text, not a number: put it in quotes`,
		},
		{
			"a truth value where text is expected",
			"allow: [{logins: [true]}]",
			`f:1: allow[0].logins[0]: must be text, not true or false: put it in quotes`,
		},
		{
			"no value where keys are expected",
			"allow: []\noptions:\n",
			`f:2: options: has no value: give one, write {} for an empty one, or remove the key`,
		},
		{
			"no value in a list",
			"allow: [{logins: [~]}]",
			`f:1: allow[0].logins[0]: has no value: give one, or remove the key`,
		},
		{
			"a fraction where a whole number is expected",
			"allow: []\nport: 1.5",
			`f:2: port: must be a whole number, not a number`,
		},
		{"a negative port", "allow: []\nport: -1", `f:2: port: "-1" is out of range`},
		{
			"an infinite number",
			"allow: []\noptions: {ratio: .inf}",
			`f:2: options.ratio: ".inf" is out of range`,
		},
		{
			"a negative duration",
			"allow: []\noptions: {cert_ttl: -1h}",
			`f:2: options.cert_ttl: a duration must not be negative`,
		},
		{
			"a duration in days",
			"allow: []\noptions: {cert_ttl: 1d}",
			`f:2: options.cert_ttl: "1d" is not a duration: write 90s, 15m, 8h or 1h30m`,
		},
		{
			"terminal control in a key",
			"allow: []\n\"\\e]0;x\\a\": 1",
			`f:2: "\x1b]0;x\a": unknown key; known here: allow, options, from, limit, port, strict`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantFaults(t, config.Decode("f", []byte(tt.in), &spec{}), []string{tt.want})
		})
	}
}

func TestAnAliasIsRefusedBeforeItIsFollowed(t *testing.T) {
	t.Parallel()
	err := config.Decode("f", []byte("allow: &a [*a]\n"), &spec{})
	if err == nil || !strings.Contains(err.Error(), "aliases (*a) are not supported") {
		t.Errorf("got %v, want the alias refused", err)
	}
}

func TestDecodeCapsSizeAndDepth(t *testing.T) {
	t.Parallel()
	big := append([]byte("allow: []\n# "), make([]byte, config.MaxBytes)...)
	if err := config.Decode("f", big, &spec{}); err == nil ||
		!strings.Contains(err.Error(), "bytes, more than") {
		t.Errorf("big: got %v, want a size fault", err)
	}
	deep := "allow: " + strings.Repeat("[", config.MaxDepth) + strings.Repeat("]", config.MaxDepth)
	wantFaults(t, config.Decode("f", []byte(deep), &spec{}), []string{"f:1: nested more than 32 deep"})
	bomb := strings.Repeat("[", 200_000)
	if err := config.Decode("f", []byte(bomb), &spec{}); err == nil {
		t.Error("bomb: got no error")
	}
}

func TestTheReportOfAVeryBadFileIsBounded(t *testing.T) {
	t.Parallel()
	var in strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&in, "unknown%d: 1\n", i)
	}
	err := config.Decode("f", []byte(in.String()), &spec{})
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 101 ||
		lines[100] != "f: 4901 more faults are not listed" {
		t.Errorf(
			"got %d lines ending %q, want 101 ending with the rest's count",
			len(lines), lines[len(lines)-1],
		)
	}
}

func TestFaultsAreAnInvalidFaultWithARemedy(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("start: %w", config.Decode("/etc/t.yaml", []byte("allow: []\nprot: 1"), &spec{}))
	if !fault.Is(err, fault.Invalid) ||
		fault.Remedy(err) != "correct /etc/t.yaml where the message says, then try again" {
		t.Errorf("got kind %s, remedy %q", fault.KindOf(err), fault.Remedy(err))
	}
	if got := fault.Public(err).Msg; got != `/etc/t.yaml:2: prot: unknown key, did you mean "port"?` {
		t.Errorf("got %q, want the line and the suggestion", got)
	}
}

const resources = `kind: role
version: v1
metadata: {name: ops, labels: {owner: web}}
spec:
  allow: [{logins: [ubuntu]}]
---
# nothing here
---
kind: role
version: v1
metadata:
  name: dev
spec:
  allow:
    - logins: [root]
`

// The headers of a file of two resources are read. The fault in the spec of the second is found when its spec
// is read, at its line in the whole file.
func TestDecodeAllReadsDocumentsAndTheirSpecs(t *testing.T) {
	t.Parallel()
	docs, err := config.DecodeAll("all.yaml", []byte(resources))
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 || docs[0].Kind != "role" || docs[0].Metadata.Labels["owner"] != "web" ||
		docs[1].Metadata.Name != "dev" ||
		docs[1].Line != 9 {
		t.Fatalf("got %+v, want ops and dev", docs)
	}
	var ops spec
	if err := docs[0].Spec(&ops); err != nil || ops.Allow[0].Logins[0] != "ubuntu" {
		t.Errorf("ops: got %+v, %v", ops, err)
	}
	wantFaults(
		t,
		docs[1].Spec(&spec{}),
		[]string{"all.yaml:15: spec.allow[0].logins[0]: root on every node is refused"},
	)
	if got := docs[1].Fault("kind %q is unknown",
		"role").String(); got != `all.yaml:9: kind "role" is unknown` {
		t.Errorf("got %q", got)
	}
}

func TestAShownResourceCanBeAppliedAgain(t *testing.T) {
	t.Parallel()
	docs, err := config.DecodeAll(
		"f",
		[]byte(
			"kind: role\nversion: v1\nmetadata: {name: a, revision: 7}\nspec: {allow: []}\nstatus: {holders: 3}\n",
		),
	)
	if err != nil || docs[0].Metadata.Revision != 7 {
		t.Errorf("got %+v, %v, want revision 7", docs, err)
	}
}

func TestDecodeAllReportsHeadersAndSpecsTogether(t *testing.T) {
	t.Parallel()
	const in = "kind: role\nversion: v1\nmetadata: {name: a}\nspec: {alow: []}\n" +
		"---\nkind: role\nmetadata: {nam: b}\n"
	docs, err := config.DecodeAll("f", []byte(in))
	if len(docs) != 1 {
		t.Fatalf("got %d documents, want the one with a valid header", len(docs))
	}
	wantFaults(t, config.Join(err, docs[0].Spec(&spec{}), nil), []string{
		"f:6: version: is required but missing",
		"f:6: spec: is required but missing",
		`f:7: metadata.nam: unknown key, did you mean "name"?`,
		`f:4: spec.alow: unknown key, did you mean "allow"?`,
	})
}

// words has only a JSON form.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// A type that reads only JSON gets the JSON form of the YAML, with the keys in their order. Its errors become
// faults with a line, in words that fit YAML.
func TestAJSONUnmarshalerReadsYAML(t *testing.T) {
	t.Parallel()
	var got struct {
		One, Two words
		Raw      json.RawMessage
	}
	in := "one: a\ntwo: [a, b]\nraw: {b: [1, 0x10, 2.5, true, text, 2026-01-01], a: {}}\n"
	if err := config.Decode("f", []byte(in), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.One) != 1 || len(got.Two) != 2 ||
		string(got.Raw) != `{"b":[1,16,2.5,true,"text","2026-01-01"],"a":{}}` {
		t.Errorf("got %+v, raw %s", got, got.Raw)
	}
	wantFaults(t, config.Decode("f", []byte("one: 1\ntwo: [{}]\nraw: [.inf, ~]\n"), &got), []string{
		"f:1: one: cannot be, or hold, a number: put it in quotes if it is text",
		"f:2: two: cannot be, or hold, keys and values",
		`f:3: raw[0]: ".inf" is out of range`,
		"f:3: raw[1]: has no value: give one, or remove the key",
	})
}

func TestStringsUnmarshalJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]config.Strings{`"a"`: {"a"}, `["a","b"]`: {"a", "b"}, `[]`: {},
		`null`: nil} {
		var got config.Strings
		if err := json.Unmarshal([]byte(in), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v, want %#v", in, got, err, want)
		}
	}
	if err := json.Unmarshal([]byte(`1`), new(config.Strings)); err == nil {
		t.Error("1: got no error")
	}
}

func TestASpecEncodesAsJSON(t *testing.T) {
	t.Parallel()
	docs, err := config.DecodeAll("f", []byte(resources))
	if err != nil {
		t.Fatal(err)
	}
	got, err := docs[1].SpecJSON()
	if want := `{"allow":[{"logins":["root"]}]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestDecodeAllOfAnEmptyFileIsAFault(t *testing.T) {
	t.Parallel()
	_, err := config.DecodeAll("f", []byte("---\n# nothing\n"))
	wantFaults(t, err, []string{"f:1: the file holds no resource: it needs kind, version, metadata and spec"})
}

func TestJoinKeepsOtherErrors(t *testing.T) {
	t.Parallel()
	if err := config.Join(nil, nil); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	other := errors.New("disk")
	if err := config.Join(other); err != other {
		t.Errorf("got %v, want the error itself", err)
	}
	err := config.Join(other, config.Faults{{File: "f", Msg: "x"}})
	var fs config.Faults
	if !errors.Is(err, other) || !errors.As(err, &fs) {
		t.Errorf("got %v, want both", err)
	}
}
