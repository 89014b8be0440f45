package fault_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is a fault with every field set.
func golden() *fault.Error {
	return &fault.Error{
		Code: "node-unknown", Kind: fault.NotFound, Op: "jump.Open", Msg: "there is no node web-1",
		Remedy: "see: tsh ls", Args: map[string]string{"node": "web-1"}, RetryAfter: 30 * time.Second,
		ID: "0123456789ab",
	}
}

// The bytes on the wire are those of the golden files, and every later release reads them.
func TestFaultsOnTheWire(t *testing.T) {
	t.Parallel()
	plain, err := json.Marshal(golden())
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"fault.json":  plain,
		"object.json": fault.MarshalObject(golden(), 1<<10),
	} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || string(got)+"\n" != string(want) {
			t.Errorf("%s: got %s, want %s (%v)", name, got, want, err)
		}
	}
	b, _ := os.ReadFile("testdata/fault.json")
	if got := fault.Decode(b); !reflect.DeepEqual(got, golden()) {
		t.Errorf("got %+v, want %+v", got, golden())
	}
	b, _ = os.ReadFile("testdata/object.json")
	if got, ok := fault.ParseObject(b); !ok || !reflect.DeepEqual(got, golden()) {
		t.Errorf("got %+v, want %+v", got, golden())
	}
}

// What a newer sender adds is ignored, and a kind and code of a newer sender are kept: the English is shown.
func TestFaultsOfANewerReleaseAreShown(t *testing.T) {
	t.Parallel()
	got := fault.Decode([]byte(`{"v":9,"critical":["why"],"why":{"x":1},"code":"moon-full","kind":"lunar",` +
		`"message":"the moon is full","remedy":"wait"}`))
	want := &fault.Error{Code: "moon-full", Kind: "lunar", Msg: "the moon is full", Remedy: "wait"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A hostile peer can neither move the cursor, nor flood the screen, nor name codes that are no names.
func TestFaultsOfHostilePeersAreCleaned(t *testing.T) {
	t.Parallel()
	args := map[string]string{"ok": "a\x1b[2J", "no\x1b": "x"}
	for i := range 100 {
		args["zz"+strings.Repeat("a", i)] = "x"
	}
	b, err := json.Marshal(map[string]any{
		"code": "a\x1bb", "kind": "Not A Kind", "message": "a\x1b[2J\r\nb\u202e" + strings.Repeat("x", 1<<20),
		"remedy": "run:\n\x07evil", "args": args, "id": "\x1b" + strings.Repeat("9", 1<<10),
		"retry_after": 1 << 60, "op": "\x1b",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := fault.Decode(b)
	shown := got.Msg + got.Remedy + got.ID + got.Op + got.Code + string(got.Kind) + got.Args["ok"]
	if strings.ContainsAny(shown, "\x1b\x07\r\u202e") || len(shown) > 20<<10 || len(got.Args) > 16 {
		t.Errorf("got %d bytes and %d arguments: %.200q, want little and nothing that a terminal obeys",
			len(shown), len(got.Args), shown)
	}
	if !strings.HasPrefix(got.Msg, "a?[2J\nb?x") || got.Remedy != "run: ?evil" || got.Code != "" ||
		got.Kind != fault.Internal || got.RetryAfter > 7*24*time.Hour || got.RetryAfter < time.Second {
		t.Errorf("got %+.200v, want what is left of it", got)
	}
}

// Whatever the texts are, the object fits, and can be read.
func TestObjectsFitTheirLimit(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"x", "é", "\x1b", "\"", "\xff"} {
		e := golden()
		e.Msg, e.Remedy = strings.Repeat(part, 5000), strings.Repeat(part, 5000)
		for _, limit := range []int{1 << 10, 4 << 10, 8 << 10} {
			b := fault.MarshalObject(e, limit)
			got, ok := fault.ParseObject(b)
			if len(b) > limit || !ok || got.Code != e.Code || got.ID != e.ID {
				t.Errorf("%q: got %d bytes of at most %d: %v", part, len(b), limit, got)
			}
		}
	}
}

func TestOnlyObjectsAreParsed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "no (ask)", "{", `{"error":`, `{"error":null}`, `{"kind":"denied"}`, "x{",
	} {
		if got, ok := fault.ParseObject([]byte(text)); ok {
			t.Errorf("%q: got %+v, want none", text, got)
		}
	}
}

// FuzzDecode: whatever a peer sends, there is a fault to show, and it survives another journey unchanged.
func FuzzDecode(f *testing.F) {
	b, _ := os.ReadFile("testdata/fault.json")
	f.Add(b)
	f.Add([]byte(`{"kind":"denied","message":"\u001b","args":{"a":"b"},"retry_after":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e := fault.Decode(b)
		if e.Kind == "" || e.Msg == "" {
			t.Fatalf("got %+v, want something to show", e)
		}
		if strings.ContainsAny(e.Msg+e.Remedy+e.ID+e.Op, "\x1b\r\x00") {
			t.Fatalf("got %+v, want no control characters", e)
		}
		first, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		second, _ := json.Marshal(fault.Decode(first))
		if !bytes.Equal(first, second) {
			t.Fatalf("got %s, want %s", second, first)
		}
	})
}
