package jump_test

import (
	"encoding/binary"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/testnet"
)

// packet is an SSH packet without encryption (RFC 4253 section 6).
func packet(payload ...byte) []byte {
	padding := 8 - (5+len(payload))%8
	if padding < 4 {
		padding += 8
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	return append(append(append(b, byte(padding)), payload...), make([]byte, padding)...)
}

// Before the key exchange is done, every other message ends the connection, and no announced length is
// allocated. The test measures allocations, so it does not run in parallel with others.
func TestSSHServerClosesWhatIsNotAKeyExchange(t *testing.T) {
	srv := newTestServer(t)
	session := append([]byte{90, 0, 0, 0, 7}, "session\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x80\x00"...)
	for name, first := range map[string][]byte{
		"a packet of 2 GiB":        {0x7f, 0xff, 0xff, 0xff, 4},
		"a packet of 4 GiB":        {0xff, 0xff, 0xff, 0xff, 4},
		"a packet of 257 kB":       {0, 4, 1, 1, 4},
		"an empty packet":          {0, 0, 0, 0, 0},
		"more padding than packet": {0, 0, 0, 12, 200, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
		"a channel":                packet(session...),
		"a message that the login succeeded (CVE-2018-10933)": packet(52),
		"a global request":          packet(append([]byte{80, 0, 0, 0, 1}, "x\x01"...)...),
		"an unexpected answer":      packet(81),
		"the end of a key exchange": packet(21),
		"an unknown message":        packet(255),
	} {
		client, server := testnet.Pipe()
		ended := make(chan error, 1)
		go func() {
			peerKnown := func(identity.Identity) { t.Errorf("%s: got accepted", name) }
			ended <- srv.ServeSSH(t.Context(), server, peerKnown)
		}()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := client.Write(append([]byte("SSH-2.0-x\r\n"), first...)); err != nil {
			t.Fatal(err)
		}
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, client); err != nil && isTimeout(err) {
			t.Errorf("%s: got the connection held, want it ended at once", name)
		}
		client.Close()
		if err := <-ended; err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
			t.Errorf("%s: got %d MB allocated, want at most 8", name, took>>20)
		}
	}
}

func isTimeout(err error) bool {
	netErr, ok := err.(interface{ Timeout() bool })
	return ok && netErr.Timeout()
}
