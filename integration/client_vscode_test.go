//go:build integration

package integration

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// bootstrap is what the editor sends to a shell: it starts a server that outlives the connection unless one
// runs already, says where that listens, and stays.
const bootstrap = `
dir=$HOME/.editor-server; mkdir -p $dir
if ! kill -0 $(cat $dir/pid 2>/dev/null) 2>/dev/null; then
  cat > $dir/server.py <<'END'
import os, socketserver, threading
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class TCP(socketserver.ThreadingTCPServer):
    daemon_threads, request_queue_size = True, 128
class Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads, request_queue_size = True, 128
dir = os.path.dirname(os.path.abspath(__file__))
unix = Unix(dir + "/socket", Echo)
threading.Thread(target=unix.serve_forever, daemon=True).start()
tcp = TCP(("127.0.0.1", 0), Echo)
with open(dir + "/port.new", "w") as f:
    f.write(str(tcp.server_address[1]))
os.rename(dir + "/port.new", dir + "/port")
tcp.serve_forever()
END
  rm -f $dir/socket $dir/port
  nohup python3 $dir/server.py >$dir/log 2>&1 </dev/null &
  echo $! > $dir/pid
  until [ -s $dir/port ]; do sleep 0.05; done
fi
echo "pid==$(cat $dir/pid)=="
echo "listeningOn==$(cat $dir/port)=="
`

// vscodeStory does what VS Code's Remote - SSH does to OpenSSH: one long-lived command without a terminal,
// whose script comes on standard input, and everything else through forwards that open and close all the
// time.
func vscodeStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	first := startEditor(t, o)
	e.Supports(
		t,
		"ssh -T -D PORT HOST bash: a script on standard input starts a server that stays",
		func(t *testing.T) {
			exchange(t, bySOCKS(first.socks, "127.0.0.1:"+first.port), 64<<10)
		},
		harness.Certificate,
		harness.Exec,
		harness.Dynamic,
		harness.ByCommand,
	)
	e.Supports(
		t,
		"100 connections at once through -D, opened and closed while others talk",
		func(t *testing.T) {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() { exchange(t, bySOCKS(first.socks, "127.0.0.1:"+first.port), 64<<10) })
			}
			all.Wait()
		},
		harness.Shared,
	)
	e.Supports(t, "-L to the server's Unix socket", func(t *testing.T) {
		local := harness.FreeAddr(t, "127.0.0.1")
		startUntilEnd(
			t,
			o.start(
				"ssh",
				o.options(
					"-T",
					"-N",
					"-o",
					"ExitOnForwardFailure=yes",
					"-L",
					local+":"+o.home(".editor-server/socket"),
					o.target(),
				)...),
		)
		checkClientEcho(t, dialer("tcp", local))
	}, harness.Local, harness.Sockets)
	e.Supports(
		t,
		"a lost connection leaves the server running, and the editor finds it again",
		func(t *testing.T) {
			first.stop()
			second := startEditor(t, o)
			if second.pid != first.pid || second.port != first.port {
				t.Errorf(
					"got server %s on port %s, want %s on %s still",
					second.pid,
					second.port,
					first.pid,
					first.port,
				)
			}
			exchange(t, bySOCKS(second.socks, "127.0.0.1:"+second.port), 64<<10)
		},
	)
}

// editor is one connection of the editor.
type editor struct {
	pid, port, socks string
	stop             func()
}

func startEditor(t *testing.T, o *clientFixture) *editor {
	t.Helper()
	ed := &editor{socks: harness.FreeAddr(t, "127.0.0.1")}
	_, port, err := net.SplitHostPort(ed.socks)
	if err != nil {
		t.Fatal(err)
	}
	cmd := o.start("ssh", o.options("-T", "-D", port, o.target(), "bash")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startUntilEnd(t, cmd)
	if _, err := io.WriteString(stdin, bootstrap); err != nil {
		t.Fatal(err)
	}
	word := func(prefix string) string { return strings.TrimSuffix(p.Line(prefix), "==") }
	ed.pid, ed.port = word("pid=="), word("listeningOn==")
	ed.stop = p.Kill // as when the laptop is shut
	return ed
}

// exchange sends so many bytes as lines and wants each back before the next.
func exchange(t *testing.T, dial func() (net.Conn, error), size int) {
	conn, err := dial()
	if err != nil {
		t.Errorf("dial: %v", err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(harness.Timeout))
	line := strings.Repeat("x", size/16-1) + "\n"
	back := bufio.NewReaderSize(conn, size)
	for i := range 16 {
		if _, err := io.WriteString(conn, line); err != nil {
			t.Errorf("line %d: %v", i, err)
			return
		}
		if got, err := back.ReadString('\n'); got != line {
			t.Errorf("line %d: got %d bytes back, %v, want %d", i, len(got), err, len(line))
			return
		}
	}
}
