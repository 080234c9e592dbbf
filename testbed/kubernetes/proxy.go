package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	proxyPort = "7443"
	// The gateways' Leases are never hindered: who writes is another question than what is answered to it.
	leases = "/apis/coordination.k8s.io/"
	// Nor is what tells people of it.
	clustersets = "/clustersets"
)

// mode is how the API server is hindered, until there is another one.
type mode struct {
	refuse     string
	retryAfter int
	delay      time.Duration
	// Ends what is under way.
	over context.Context
	end  context.CancelFunc
}

// hindrance is an API server that asks for patience, or whose watches are late, for one pod alone: it stands between
// that pod and the real one until it is ended, and counts.
type hindrance struct {
	mode    atomic.Pointer[mode]
	refused atomic.Int64
	passed  atomic.Int64
	lists   atomic.Int64
	watches atomic.Int64
}

// proxyMain hinders as the command line says, then as each line of its input says (`count`: as before), until that
// ends. Each time it prints as JSON what it counted since.
func proxyMain(words []string) error {
	flags := flag.NewFlagSet("proxy", flag.ExitOnError)
	folder := flags.String("folder", "", "of the cluster")
	address := flags.String("address", "", "of the cluster's node")
	pod := flags.String("pod", "", "the address of the pod that is hindered")
	first := flags.String("mode", "", "flags of a mode, as on each line of the input")
	if err := flags.Parse(words); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	h := &hindrance{}
	if err := h.begin(*first); err != nil {
		return err
	}
	server, err := h.server(*folder, *address)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(*address, proxyPort))
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(listener, "", "") }()
	defer server.Close()
	if err := divert(*pod, *address); err != nil {
		return err
	}
	defer func() {
		_ = command("", "nft", "delete", "table", "ip", "testbed_proxy")()
	}()
	fmt.Println("ready")
	lines := make(chan string)
	go func() {
		defer close(lines)
		for input := bufio.NewScanner(os.Stdin); input.Scan(); {
			lines <- input.Text()
		}
	}()
	for {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		case line, more := <-lines:
			if !more {
				return h.say()
			}
			if line != "count" {
				if err := h.begin(line); err != nil {
					return err
				}
			}
			if err := h.say(); err != nil {
				return err
			}
		}
	}
}

// begin hinders in another way from now on; what is under way is ended.
func (h *hindrance) begin(text string) error {
	next := &mode{}
	next.over, next.end = context.WithCancel(context.Background())
	flags := flag.NewFlagSet("mode", flag.ContinueOnError)
	flags.StringVar(&next.refuse, "refuse", "", "`all` requests, or `writes` alone, are answered with 429")
	flags.IntVar(&next.retryAfter, "retry-after", 1, "seconds that are asked for")
	flags.DurationVar(&next.delay, "delay", 0, "how late watches say something")
	if err := flags.Parse(strings.Fields(text)); err != nil {
		return err
	}
	if before := h.mode.Swap(next); before != nil {
		before.end()
	}
	return nil
}

// say prints the counts, which begin anew.
func (h *hindrance) say() error {
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{
		"refused": h.refused.Swap(0), "passed": h.passed.Swap(0),
		"lists": h.lists.Swap(0), "watches": h.watches.Swap(0),
	})
}

// divert sends new connections of the pod to the API server here, and ends those it has.
func divert(pod, address string) error {
	rules := fmt.Sprintf(`table ip testbed_proxy {
  chain divert {
    type nat hook prerouting priority dstnat - 10;
    ip saddr %[1]s ip daddr %[2]s tcp dport 443 dnat to %[3]s:%[4]s
  }
  chain cut {
    type filter hook input priority filter - 10;
    ip saddr %[1]s ip daddr %[3]s tcp dport 6443 reject with tcp reset
  }
}
`, pod, kubernetesIP, address, proxyPort)
	return each(
		command(rules, "nft", "-f", "-"),
		// The rule sees only those that send something; where the system cannot do this, watches wait for that.
		command("", "ss", "--kill", "--tcp", "dst", pod, "sport", "=", ":6443"),
	)
}

func (h *hindrance) server(folder, address string) (*http.Server, error) {
	path := func(name string) string { return filepath.Join(folder, name) }
	own, err := tls.LoadX509KeyPair(path("apiserver.crt"), path("apiserver.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(path("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	real := &url.URL{Scheme: "https", Host: net.JoinHostPort(address, "6443")}
	quiet := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(request *httputil.ProxyRequest) { request.SetURL(real) },
		FlushInterval: -1,
		ErrorLog:      quiet,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		},
		ModifyResponse: func(response *http.Response) error {
			if delay := h.mode.Load().delay; delay > 0 && isWatch(response.Request) {
				response.Body = late(response.Body, delay)
			}
			return nil
		},
	}
	return &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{own}},
		ErrorLog:  quiet,
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
			h.serve(proxy, answer, request)
		}),
	}, nil
}

func (h *hindrance) serve(proxy http.Handler, answer http.ResponseWriter, request *http.Request) {
	mode := h.mode.Load()
	if strings.HasPrefix(request.URL.Path, leases) {
		proxy.ServeHTTP(answer, request)
		return
	}
	if mode.refuses(request) {
		h.refused.Add(1)
		// As the real one's priority and fairness says it.
		answer.Header().Set("Retry-After", strconv.Itoa(mode.retryAfter))
		http.Error(answer, "Too many requests, please try again later.", http.StatusTooManyRequests)
		return
	}
	h.passed.Add(1)
	switch {
	case mode.refuse == "all":
		// Let through on purpose; it says nothing of what is refused.
	case isWatch(request):
		h.watches.Add(1)
	case request.Method == http.MethodGet:
		h.lists.Add(1)
	}
	ctx, cancel := context.WithCancel(request.Context())
	defer cancel()
	defer context.AfterFunc(mode.over, cancel)()
	proxy.ServeHTTP(answer, request.WithContext(ctx))
}

func isWatch(request *http.Request) bool {
	return strings.Contains(request.URL.RawQuery, "watch=true")
}

func (m *mode) refuses(request *http.Request) bool {
	if strings.Contains(request.URL.Path, clustersets) {
		return false
	}
	return m.refuse == "all" || m.refuse == "writes" && request.Method != http.MethodGet
}

// late is a stream that says everything, and says it later.
func late(body io.ReadCloser, delay time.Duration) io.ReadCloser {
	type chunk struct {
		bytes []byte
		due   time.Time
	}
	chunks := make(chan chunk, 1024)
	reader, writer := io.Pipe()
	go func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 32*1024)
			count, err := body.Read(buffer)
			if count > 0 {
				chunks <- chunk{buffer[:count], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer body.Close()
		defer writer.Close()
		broken := false
		// What nobody hears any more is still taken, so that its reader ends.
		for next := range chunks {
			if broken {
				continue
			}
			time.Sleep(time.Until(next.due))
			if _, err := writer.Write(next.bytes); err != nil {
				broken = true
				body.Close()
			}
		}
	}()
	return reader
}
