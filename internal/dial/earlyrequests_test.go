package dial_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/threshold-access/threshold/internal/dial"
)

func TestEarlyRequestsRoundTrip(t *testing.T) {
	t.Parallel()
	list := []dial.ChannelRequest{{Type: "env", Payload: []byte("LANG")}, {Type: "shell", Payload: []byte{}}}
	b, fits := dial.MarshalEarlyRequests(list)
	want := []byte("\x00\x00\x00\x03env\x00\x00\x00\x04LANG\x00\x00\x00\x05shell\x00\x00\x00\x00")
	if !fits || !bytes.Equal(b, want) {
		t.Fatalf("got %q, %v, want %q: other releases read these bytes", b, fits, want)
	}
	if got, err := dial.ParseEarlyRequests(b); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("got %q, %v, want %q", got, err, list)
	}
	if got, err := dial.ParseEarlyRequests(nil); got != nil || err != nil {
		t.Errorf("got %v, %v of nothing, want nothing: other clients send no such data", got, err)
	}
}

// Requests of exactly MaxEarlyRequestBytes fit and are read; one byte more does not fit and is refused.
func TestEarlyRequestsAreBounded(t *testing.T) {
	t.Parallel()
	exec := func(n int) []dial.ChannelRequest {
		return []dial.ChannelRequest{{Type: "exec", Payload: make([]byte, n)}}
	}
	const most = dial.MaxEarlyRequestBytes - len("exec") - 8
	b, fits := dial.MarshalEarlyRequests(exec(most))
	if !fits || len(b) != dial.MaxEarlyRequestBytes {
		t.Errorf("got %d bytes, %v, want %d that fit", len(b), fits, dial.MaxEarlyRequestBytes)
	}
	if _, err := dial.ParseEarlyRequests(b); err != nil {
		t.Error(err)
	}
	if _, fits := dial.MarshalEarlyRequests(exec(most + 1)); fits {
		t.Error("got one byte more to fit, want it not to")
	}
	if _, err := dial.ParseEarlyRequests(append(b, 0)); err == nil {
		t.Error("got one byte more read, want refused")
	}
}

func TestParseEarlyRequestsRefuses(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"half a length":        "\x00\x00\x00",
		"a type cut off":       "\x00\x00\x00\x05shel",
		"a type alone":         "\x00\x00\x00\x05shell",
		"a payload cut off":    "\x00\x00\x00\x04exec\x00\x00\x00\x02x",
		"a length beyond all":  "\xff\xff\xff\xff",
		"something after it":   "\x00\x00\x00\x05shell\x00\x00\x00\x00x",
		"text without lengths": "hello",
	} {
		if got, err := dial.ParseEarlyRequests([]byte(s)); err == nil {
			t.Errorf("%s: got %q, want refused", name, got)
		}
	}
}

func FuzzParseEarlyRequests(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03env\x00\x00\x00\x04LANG\x00\x00\x00\x05shell\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := dial.ParseEarlyRequests(b)
		if err != nil {
			return
		}
		if again, fits := dial.MarshalEarlyRequests(list); !fits || !bytes.Equal(again, b) {
			t.Errorf("got %q, %v, want %q", again, fits, b)
		}
	})
}
