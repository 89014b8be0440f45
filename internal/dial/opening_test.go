package dial_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/threshold-access/threshold/internal/dial"
)

func TestOpeningRoundTrip(t *testing.T) {
	list := []dial.Asked{{Type: "env", Payload: []byte("LANG")}, {Type: "shell", Payload: []byte{}}}
	b, fits := dial.MarshalOpening(list)
	want := []byte("\x00\x00\x00\x03env\x00\x00\x00\x04LANG\x00\x00\x00\x05shell\x00\x00\x00\x00")
	if !fits || !bytes.Equal(b, want) {
		t.Fatalf("got %q, %v, want %q: others read these bytes", b, fits, want)
	}
	if got, err := dial.ParseOpening(b); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("got %q, %v, want %q", got, err, list)
	}
	if got, err := dial.ParseOpening(nil); got != nil || err != nil {
		t.Errorf("got %v, %v of nothing, want nothing: so stock clients open channels", got, err)
	}
}

func TestOpeningHasABound(t *testing.T) {
	exec := func(n int) []dial.Asked { return []dial.Asked{{Type: "exec", Payload: make([]byte, n)}} }
	const most = dial.MaxOpening - len("exec") - 8
	b, fits := dial.MarshalOpening(exec(most))
	if !fits || len(b) != dial.MaxOpening {
		t.Errorf("got %d bytes, %v, want %d that fit", len(b), fits, dial.MaxOpening)
	}
	if _, err := dial.ParseOpening(b); err != nil {
		t.Error(err)
	}
	if _, fits := dial.MarshalOpening(exec(most + 1)); fits {
		t.Error("got one byte more to fit, want it not to")
	}
	if _, err := dial.ParseOpening(append(b, 0)); err == nil {
		t.Error("got one byte more read, want refused")
	}
}

func TestParseOpeningRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"half a length":         "\x00\x00\x00",
		"a type cut off":        "\x00\x00\x00\x05shel",
		"a type alone":          "\x00\x00\x00\x05shell",
		"a payload cut off":     "\x00\x00\x00\x04exec\x00\x00\x00\x02x",
		"a length beyond all":   "\xff\xff\xff\xff",
		"something after it":    "\x00\x00\x00\x05shell\x00\x00\x00\x00x",
		"text of another sense": "hello",
	} {
		if got, err := dial.ParseOpening([]byte(s)); err == nil {
			t.Errorf("%s: got %q, want refused", name, got)
		}
	}
}

func TestReadsOpenings(t *testing.T) {
	for version, want := range map[string]bool{
		"SSH-2.0-Threshold": true, "SSH-2.0-Threshold_1.4 x": true, "SSH-2.0-OpenSSH_9.2": false, "SSH-2.0-Go": false, "": false, "Threshold": false,
	} {
		if got := dial.ReadsOpenings([]byte(version)); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
}

func TestReadsReasons(t *testing.T) {
	for version, want := range map[string]bool{dial.ClientVersion: true, dial.ClientVersion + "_2": true, "SSH-2.0-OpenSSH_9.2": false, "": false} {
		if got := dial.ReadsReasons([]byte(version)); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
}

func FuzzParseOpening(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03env\x00\x00\x00\x04LANG\x00\x00\x00\x05shell\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := dial.ParseOpening(b)
		if err != nil {
			return
		}
		if again, fits := dial.MarshalOpening(list); !fits || !bytes.Equal(again, b) {
			t.Errorf("got %q, %v, want %q", again, fits, b)
		}
	})
}
