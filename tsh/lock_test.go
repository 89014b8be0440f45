package tsh_test

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
)

// lockServer is the part of the auth service that has the locks.
type lockServer struct {
	now time.Time // by its clock

	mu        sync.Mutex // guards what follows
	locks     []authrpc.Resource
	refused   int // locks that are made before others are refused; negative: all are made
	asked     []authrpc.LockConfirmationsRequest
	confirm   []authrpc.LockConfirmationsResponse // the answers in order; the last one is repeated
	confirmed error                               // not nil: the error instead
}

func newLockServer(tc *testCluster) *lockServer {
	s := &lockServer{
		now:     time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		refused: -1,
		confirm: []authrpc.LockConfirmationsResponse{{Attached: 2, Confirmed: 2}},
	}
	whoAmI := func(authrpc.WhoAmIRequest) (authrpc.WhoAmIResponse, error) {
		return authrpc.WhoAmIResponse{Time: s.now}, nil
	}
	clustertest.Answer(tc.Cluster, authrpc.WhoAmI, whoAmI)
	clustertest.Answer(tc.Cluster, authrpc.ApplyResource, s.apply)
	clustertest.Answer(tc.Cluster, authrpc.LockConfirmations, s.confirmations)
	return s
}

// apply makes a lock. It hits what its document says.
func (s *lockServer) apply(r authrpc.ApplyResourceRequest) (res authrpc.ApplyResourceResponse, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == len(s.locks) {
		return res, faulttest.New(fault.Exhausted, "locks", "there is no room", "run: tsh lock ls")
	}
	lock := r.Resource
	lock.Metadata.Name = fmt.Sprintf("%012x", len(s.locks)+1)
	lock.Metadata.Revision = uint64(70 + len(s.locks))
	lock.Status = json.RawMessage(`{"author":"alice@example.com","hits":"user bob\u001b[2J (corp/7)"}`)
	s.locks = append(s.locks, lock)
	return authrpc.ApplyResourceResponse{Created: true, Resource: lock}, nil
}

func (s *lockServer) confirmations(
	r authrpc.LockConfirmationsRequest,
) (res authrpc.LockConfirmationsResponse, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r)
	if s.confirmed != nil {
		return res, s.confirmed
	}
	res = s.confirm[0]
	if len(s.confirm) > 1 {
		s.confirm = s.confirm[1:]
	}
	return res, nil
}

// specs returns the specs of the locks that were made, and forgets them.
func (s *lockServer) specs() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var specs []string
	for _, lock := range s.locks {
		specs = append(specs, string(lock.Spec))
	}
	s.locks = nil
	return strings.Join(specs, "\n")
}

func TestLockSendsTheFactsThatItIsGiven(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	c := tc.loggedIn()
	for _, test := range []struct{ args, want string }{
		{"user bob@example.com", `{"match":{"user":"bob@example.com"}}`},
		{"USER/bob", `{"match":{"user":"bob"}}`},
		{"login 4f2a", `{"match":{"login_id":"4f2a"}}`},
		{"account root", `{"match":{"account":"root"}}`},
		{"node web-1", `{"match":{"machine":"web-1"}}`},
		{"proxy edge-1", `{"match":{"machine":"edge-1"}}`},
		{"role ops", `{"match":{"role":"ops"}}`},
		{"connector corp", `{"match":{"connector":"corp"}}`},
		{"serial 18446744073709551615", `{"match":{"serial":"18446744073709551615"}}`},
		{
			"user bob --node db-1 --account root --role ops --connector corp --via-proxy edge-1",
			`{"match":{"user":"bob","connector":"corp","role":"ops","account":"root","machine":"db-1",` +
				`"via_proxy":"edge-1"}}`,
		},
		{
			"user bob --for 90m --message stolen --force --without-role ops",
			`{"match":{"user":"bob"},"without_role":"ops","for":"1h30m","message":"stolen","force":true}`,
		},
		// Times that are relative count from the clock of the cluster, whatever this machine's clock says.
		{"user bob --issued-before now", `{"match":{"user":"bob","issued_before":"2026-03-01T12:00:00Z"}}`},
		{
			"user bob --since 2h --issued-before 2026-03-01T12:00:00+01:00",
			`{"match":{"user":"bob","issued_before":"2026-03-01T11:00:00Z","since":"2026-03-01T10:00:00Z"}}`,
		},
		// A stolen proxy: the machine, and what it may have had issued for others.
		{
			"proxy edge-1 --since 48h --message stolen",
			`{"match":{"machine":"edge-1"},"message":"stolen"}` + "\n" +
				`{"match":{"login_proxy":"edge-1","since":"2026-02-27T12:00:00Z"},"message":"stolen"}`,
		},
	} {
		c.ok(append([]string{"lock"}, strings.Fields(test.args)...)...)
		if got := s.specs(); got != test.want {
			t.Errorf("tsh lock %s: got %s, want %s", test.args, got, test.want)
		}
	}
}

func TestLockRefusesWhatItCannotMean(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	c := tc.loggedIn()
	for _, test := range []struct{ args, want string }{
		{"", "a kind and a name"},
		{"usr bob", "user, login, account, node, proxy, role, connector, serial"},
		{"user", "tsh get users"},
		{"user/", "KIND/NAME"},
		{"login", "tsh get events"},
		{"user bob carol", "a kind and a name"},
		{"user bob --for 0s", "until it is removed"},
		{"user bob --for -2h", "until it is removed"},
		{"user bob --for 2", "a number and a unit"},
		{"user bob --wait 2", "a number and a unit"},
		{"user bob --since yesterday", "2026-03-01T12:00:00Z"},
		{"user bob --since -2h", "a duration back"},
		{"node web-1 --node db-1", "contradict"},
		{"role ops --role dev", "contradict"},
		{"proxy edge-1 --account root", "tsh lock user NAME --via-proxy edge-1"},
		{"proxy edge-1 --issued-before now", "only --since"},
		{"proxy edge-1 --without-role ops", "only --since"},
		{"rm", "tsh lock ls"},
		{"ls web-1", "tsh get lock web-1"},
	} {
		c.refused(1, append([]string{"lock"}, strings.Fields(test.args)...), test.want)
	}
	if calls := tc.takeCalls(); calls != nil || s.specs() != "" {
		t.Errorf("got calls %q, want none", calls)
	}
}

func TestLockShowsTheDocumentAndLocksNothing(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	c := tc.loggedIn()
	document := c.ok("lock", "proxy", "edge-1", "--since", "2026-03-01T12:00:00Z", "--dry-run")
	if got := s.specs(); got != "" {
		t.Errorf("got the lock %s, want none", got)
	}
	if r := c.runWith(strings.NewReader(document), "apply", "-f", "-"); r.code != 0 ||
		r.out != "lock 000000000001 created\nlock 000000000002 created\n" {
		t.Errorf("got %+v for %s, want both locks applied", r, document)
	}
	want := `{"match":{"machine":"edge-1"}}` + "\n" +
		`{"match":{"login_proxy":"edge-1","since":"2026-03-01T12:00:00Z"}}`
	if got := s.specs(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var list []authrpc.Resource
	out := c.ok("lock", "user", "bob", "--dry-run", "--format=json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].Kind != "lock" {
		t.Errorf("got %s (%v), want one document", out, err)
	}
}

func TestLockWaitsUntilAllHaveConfirmed(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	s.confirm = []authrpc.LockConfirmationsResponse{
		{Attached: 1000, Confirmed: 3},
		{Attached: 1000, Confirmed: 998},
		{Attached: 1000, Confirmed: 1000, OfflineCount: 1, Offline: machines("db-9")},
	}
	c := tc.loggedIn()
	r := c.run("lock", "user", "bob", "--wait", "10m")
	if r.code != 0 ||
		r.out != "lock 000000000001 created until it is removed; denied: user bob[2J (corp/7)\n" ||
		!strings.HasPrefix(r.stderr, "Confirmed by all 1000 machines.\nOffline: db-9.") {
		t.Errorf("got %+v, want that all have confirmed", r)
	}
	for i, req := range s.asked {
		if req.Lock != "000000000001" || req.Wait <= 0 || req.Wait > time.Second {
			t.Errorf("call %d: got %+v, want the lock's id and a short wait", i, req)
		}
	}
	if len(s.asked) != 3 {
		t.Errorf("got %d calls, want to ask until all have confirmed", len(s.asked))
	}
}

// At a terminal, one line says how many have confirmed so far. The result takes its place.
func TestLockShowsProgressAtATerminal(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	s.confirm = []authrpc.LockConfirmationsResponse{
		{Attached: 1000, Confirmed: 998},
		{Attached: 1000, Confirmed: 1000},
	}
	c := tc.loggedIn()
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	codes := c.start(io.Discard, tty, "lock", "user", "bob")
	readUntil(t, user, "\rConfirmed by 998 of 1000 machines\x1b[K\r\x1b[KConfirmed by all 1000 machines.")
	if code := <-codes; code != 0 {
		t.Errorf("got %d, want 0", code)
	}
}

// Of several locks, machines have to confirm all.
func TestLockWaitsForBothLocksOfAProxy(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	r := tc.loggedIn().run("lock", "proxy", "edge-1", "--since", "1h")
	if r.code != 0 || strings.Count(r.out, "created") != 2 || len(s.asked) != 1 || s.asked[0].Lock != "" {
		t.Errorf("got %+v and calls %+v, want both locks confirmed", r, s.asked)
	}
}

func TestLockNamesTheSilentMachines(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	names := make([]string, 24)
	for i := range names {
		names[i] = fmt.Sprintf("web-%d", i)
	}
	silent := machines(names...)
	silent[0].Kind = identity.Proxy
	s.confirm = []authrpc.LockConfirmationsResponse{{Attached: 1030, Confirmed: 1000, Silent: silent}}
	c := tc.loggedIn()
	r := c.run("lock", "user", "bob", "--wait", "1ms")
	begins := "Confirmed by 1000 of 1030 machines within 1ms.\nSilent: proxy web-0, web-1, "
	if r.code != 3 || !strings.Contains(r.out, "lock 000000000001 created") ||
		!strings.HasPrefix(r.stderr, begins) ||
		!strings.Contains(r.stderr, "web-19 and 10 more.") || strings.Contains(r.stderr, "web-20") {
		t.Errorf("got %+v, want 3 and the first silent machines", r)
	}
	r = c.run("lock", "user", "bob", "--wait", "1ms", "--format=json")
	var got struct {
		Locks            []authrpc.Resource
		Confirmed, Total int
		Silent, Offline  []struct{ Name, Kind string }
		Offline_Count    *int
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 3 || r.stderr != "" {
		t.Fatalf("got %+v (%v), want 3 and JSON alone", r, err)
	}
	if len(got.Locks) != 1 || got.Locks[0].Metadata.Name != "000000000002" || got.Confirmed != 1000 ||
		got.Total != 1030 || len(got.Silent) != 24 || got.Silent[0].Kind != "proxy" ||
		got.Offline == nil || got.Offline_Count == nil {
		t.Errorf("got %s, want the lock and who has confirmed", r.out)
	}
	if out := c.run("lock", "user", "bob", "--wait", "1ms", "--format=yaml").out; !strings.Contains(
		out, "\nconfirmed: 1000\ntotal: 1030\n") {
		t.Errorf("got %s, want YAML", out)
	}
}

func TestLockDoesNotWaitIfToldSo(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	c := tc.loggedIn()
	r := c.run("lock", "user", "bob", "--wait", "0")
	if r.code != 0 || r.stderr != "" || s.asked != nil {
		t.Errorf("got %+v and calls %v, want no wait", r, s.asked)
	}
	var got map[string]any
	out := c.ok("lock", "user", "bob", "--wait", "0", "--format=json")
	err := json.Unmarshal([]byte(out), &got)
	if err != nil || got["locks"] == nil || got["confirmed"] != nil {
		t.Errorf("got %s (%v), want the lock, and nothing of confirmations", out, err)
	}
}

// The auth service may not answer for a moment, as at a change of its leader. If it does not at all, the
// locks are made all the same, and the exit status is not that of an error.
func TestLockIsMadeWhenConfirmationsAreUnknown(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	s.confirmed = faulttest.New(fault.Unavailable, "locks", "there is no leader", "try again")
	c := tc.loggedIn()
	r := c.run("lock", "user", "bob", "--wait", "300ms")
	if !strings.Contains(r.out, "lock 000000000001 created") {
		t.Errorf("got %+v, want the lock shown", r)
	}
	c.wantRefusal(r, "lock", 3, "the locks are changed", "there is no leader", "try again")
	if len(s.asked) < 2 {
		t.Errorf("got %d calls, want to ask again", len(s.asked))
	}
	r = c.run("lock", "user", "bob", "--wait", "1ms", "--format=json")
	if r.code != 3 || !strings.Contains(r.out, "000000000002") ||
		!strings.Contains(r.stderr, `"code":"lock-confirmations-unknown"`) {
		t.Errorf("got %+v, want the lock and the error as JSON", r)
	}
}

func TestLockSaysWhatIsDoneBeforeAnError(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	s.refused = 1
	c := tc.loggedIn()
	r := c.run("lock", "proxy", "edge-1", "--since", "1h")
	if !strings.Contains(r.out, "lock 000000000001 created") || !strings.HasPrefix(r.stderr, "Stopped; ") {
		t.Errorf("got %+v, want the first lock", r)
	}
	c.wantRefusal(r, "lock", 1, "there is no room")
}

func TestLocksAreListedAndRemoved(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	s := newLockServer(tc)
	tc.docs["00000000000a"] = authrpc.Resource{
		Kind:     "lock",
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: "00000000000a", Revision: 7},
		Spec: json.RawMessage(`{"match":{"user":"bob"},"without_role":"ops","message":"left",` +
			`"end":"2026-03-01T12:00:00Z"}`),
		Status: json.RawMessage(`{"author":"alice@example.com","hits":"user bob (corp/7)","ended":true}`),
	}
	tc.docs["00000000000b"] = authrpc.Resource{
		Kind:     "lock",
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: "00000000000b", Revision: 8},
		Spec:     json.RawMessage(`{"match":{"machine":"edge-1"}}`),
		Status:   json.RawMessage(`{"hits":"machine edge-1"}`),
	}
	c := tc.loggedIn()
	for _, args := range [][]string{{"lock", "ls"}, {"get", "locks"}} {
		out := c.ok(args...)
		lines := strings.Split(out, "\n")
		slices.Sort(lines[1 : len(lines)-1])
		for i, want := range []string{
			"ID HITS EFFECT END AUTHOR MESSAGE",
			"00000000000a user bob (corp/7) without role ops " +
				time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Local().Format("2006-01-02 15:04:05") +
				" (ended) alice@example.com left",
			"00000000000b machine edge-1 deny - - -",
		} {
			if got := strings.Join(strings.Fields(lines[i]), " "); got != want {
				t.Errorf("%v: got %q, want %q", args, got, want)
			}
		}
	}
	var list []authrpc.Resource
	err := json.Unmarshal([]byte(c.ok("lock", "ls", "--format=json")), &list)
	if err != nil || len(list) != 2 {
		t.Errorf("got %v (%v), want both", list, err)
	}
	if out := c.ok("get", "lock", "00000000000a"); !strings.Contains(out, "kind: lock") {
		t.Errorf("got %s, want the document", out)
	}
	if out := c.ok("__complete", "lock", "rm", "00000000000"); !strings.Contains(out, "00000000000b\n") {
		t.Errorf("got %q, want the ids", out)
	}

	r := c.run("lock", "rm", "00000000000a", "00000000000c")
	c.wantRefusal(r, "rm", 1, "no 00000000000c")
	if r.out != "lock 00000000000a removed\n" || !strings.HasPrefix(r.stderr, "Stopped; ") {
		t.Errorf("got %+v, want the first removed", r)
	}
	s.asked = nil
	r = c.run("lock", "rm", "00000000000b")
	if r.code != 0 || r.out != "lock 00000000000b removed\n" || r.stderr != "Confirmed by all 2 machines.\n" {
		t.Errorf("got %+v, want it removed and that confirmed", r)
	}
	// A removal is a change of all locks: the lock itself is gone.
	if len(s.asked) != 1 || s.asked[0].Lock != "" {
		t.Errorf("got %+v, want all changes confirmed", s.asked)
	}
	if r := c.run("lock", "ls"); r.out != "" || r.stderr != "There are no locks.\n" {
		t.Errorf("got %+v, want none", r)
	}
}

func TestLockIsCompleted(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	const bob = "bob@example.com"
	tc.docs[bob] = authrpc.Resource{Kind: "user", Metadata: authrpc.Metadata{Name: bob}}
	tc.docs["bold"] = authrpc.Resource{Kind: "role", Metadata: authrpc.Metadata{Name: "bold"}}
	c := tc.loggedIn()
	for _, test := range []struct{ args, want string }{
		{"lock user b", "bob@example.com\n:4\n"},
		{"lock role b", "bold\n:4\n"},
		{"lock login b", ":4\n"},
		{"lock user carol --without-role ", "bold\n:4\n"},
	} {
		args := append([]string{"__complete"}, strings.Split(test.args, " ")...)
		if out := c.ok(args...); out != test.want {
			t.Errorf("%s: got %q, want %q", test.args, out, test.want)
		}
	}
	out := c.ok("__complete", "lock", "")
	for _, want := range []string{"user\n", "serial\n", "ls\t", "rm\t"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want %q in it", out, want)
		}
	}
	if out := tc.client().ok("__complete", "lock", "user", ""); out != ":4\n" {
		t.Errorf("before login: got %q, want no names", out)
	}
}

// machines returns nodes that have not confirmed.
func machines(names ...string) []authrpc.UnconfirmedMachine {
	var list []authrpc.UnconfirmedMachine
	for _, name := range names {
		list = append(list, authrpc.UnconfirmedMachine{Name: name, Kind: identity.Node})
	}
	return list
}
