//go:build integration

package integration

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/threshold-access/threshold/integration/harness"
)

// A real Chromium does a first login with JavaScript switched off: the pages need none.
func TestAFirstLoginInChromiumWithoutJavaScript(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "node-1")
	c := harness.NewClient(t)
	login := c.StartLogin("--proxy", s.Proxy, "--ca-file", s.CAFile)
	address := login.Line("Open: ")
	alice := harness.Alice()

	b := chromium(t, s.CAFile)
	b.run(chromedp.Navigate("https://"+s.Proxy+"/"), chromedp.WaitVisible(chromedp.CSS("h1")))
	b.screenshot("welcome")
	b.run(chromedp.Navigate("https://"+s.Proxy+"/login"), chromedp.WaitVisible(chromedp.CSS("h1")))
	b.screenshot("refusal")
	b.run(chromedp.Navigate(address), chromedp.WaitVisible(chromedp.CSS(`input[name="password"]`)))
	b.screenshot("provider")
	b.run(
		chromedp.SendKeys(chromedp.CSS(`input[name="login"]`), alice.Email),
		chromedp.SendKeys(chromedp.CSS(`input[name="password"]`), alice.Password+"\r"),
		chromedp.WaitVisible(chromedp.CSS("#secret")),
	)
	b.screenshot("enrolment")
	alice.TOTPSecret = strings.Join(strings.Fields(evaluate(b, chromedp.Text(chromedp.CSS("#secret")))), "")
	b.run(
		chromedp.SendKeys(chromedp.CSS(`input[name="code"]`), "000000\r"),
		chromedp.WaitVisible(chromedp.CSS("#error")),
	)
	b.screenshot("enrolment-wrong-code")
	b.run(
		chromedp.SendKeys(chromedp.CSS(`input[name="code"]`), harness.FreshCode(t, alice)+"\r"),
		chromedp.WaitVisible(chromedp.CSS("#continue")),
	)
	b.screenshot("recovery-codes")
	b.run(
		chromedp.Click(chromedp.CSS("#continue")),
		chromedp.WaitNotPresent(chromedp.CSS("#continue")),
		chromedp.WaitVisible(chromedp.CSS("h1")),
	)
	b.screenshot("done")
	if location := evaluate(b, chromedp.Location()); !strings.HasPrefix(location, "http://127.0.0.1:") {
		t.Errorf("got %s, want the page of tsh on loopback", location)
	}
	if err := login.Wait(); err != nil {
		t.Fatalf("tsh login: %v\n%s", err, login.Output())
	}
	c.Tsh("ssh", "node-1", "true").OK(t)

	second := harness.NewClient(t)
	again := second.StartLogin("--proxy", s.Proxy, "--ca-file", s.CAFile)
	b.run(
		chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile),
		chromedp.Navigate(again.Line("Open: ")+"&lang=ko"),
	)
	b.run(chromedp.WaitVisible(chromedp.CSS(`input[name="password"]`)))
	b.screenshot("provider-phone-ko")
	b.run(
		chromedp.SendKeys(chromedp.CSS(`input[name="login"]`), alice.Email),
		chromedp.SendKeys(chromedp.CSS(`input[name="password"]`), alice.Password+"\r"),
		chromedp.WaitVisible(chromedp.CSS(`input[name="code"]`)),
	)
	b.screenshot("factor-phone-ko")
	b.run(
		chromedp.SendKeys(chromedp.CSS(`input[name="code"]`), harness.FreshCode(t, alice)+"\r"),
		chromedp.WaitNotPresent(chromedp.CSS(`input[name="code"]`)),
		chromedp.WaitVisible(chromedp.CSS("h1")),
	)
	b.screenshot("done-phone-ko")
	if err := again.Wait(); err != nil {
		t.Fatalf("second tsh login: %v\n%s", err, again.Output())
	}
}

// browser is a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
	dir string // for screenshots; "" means none
}

// chromium starts a browser that trusts the certificate in caFile and runs no scripts. It ends with the
// test. The environment variable THRESHOLD_SCREENSHOTS names the folder for screenshots.
func chromium(t *testing.T, caFile string) *browser {
	t.Helper()
	opts := append(
		chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox,
		chromedp.ExecPath("/usr/bin/chromium"),
		chromedp.Flag("disable-quic", true),
		chromedp.WindowSize(1100, 900),
		chromedp.Flag("lang", "en"),
		chromedp.Env("LANG=en_US.UTF-8", "LANGUAGE=en", "TMPDIR="+t.TempDir()),
		chromedp.Flag("ignore-certificate-errors-spki-list", spki(t, caFile)),
	)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	// The first Run starts the browser, which ends with the context of that Run: it must be the test's.
	noScripts := chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		params := emulation.SetScriptExecutionDisabledParams{Value: true}
		_, err := cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, params)
		return err
	})
	if err := chromedp.Do(ctx, noScripts); err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, ctx: ctx, dir: os.Getenv("THRESHOLD_SCREENSHOTS")}
}

// spki is the SHA-256 of the certificate's public key, as Chromium wants it.
func spki(t *testing.T, caFile string) string {
	t.Helper()
	b, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// run runs actions, and fails the test when they do not succeed within browserTimeout.
func (b *browser) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		where, _ := chromedp.Run(b.ctx, chromedp.Location())
		text, _ := chromedp.Run(b.ctx, chromedp.TextContent(chromedp.CSS("body")))
		b.t.Fatalf("browser at %s: %v\nthe page says: %s", where, err, text)
	}
}

const browserTimeout = 30 * time.Second

// evaluate runs an action and returns its result.
func evaluate[T any](b *browser, what chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTimeout)
	defer cancel()
	got, err := chromedp.Run(ctx, what)
	if err != nil {
		b.t.Fatalf("browser: %v", err)
	}
	return got
}

func (b *browser) screenshot(name string) {
	b.t.Helper()
	png := evaluate(b, chromedp.FullScreenshot(100))
	if b.dir != "" {
		if err := os.WriteFile(filepath.Join(b.dir, name+".png"), png, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}
