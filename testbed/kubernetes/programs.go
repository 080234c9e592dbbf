package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// programs are the control plane's processes. They end with this one, whatever ends it.
type programs struct {
	folder  string
	ended   chan error
	mutex   sync.Mutex
	running []*exec.Cmd
	over    bool
}

func newPrograms(folder string) *programs {
	return &programs{folder: folder, ended: make(chan error, 16)}
}

func (p *programs) start(name string, command []string) error {
	log, err := os.OpenFile(filepath.Join(p.folder, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	child := exec.Command(command[0], command[1:]...)
	child.Stdout, child.Stderr = log, log
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := child.Start(); err != nil {
		return fmt.Errorf("%s cannot be started: %w", name, err)
	}
	p.mutex.Lock()
	p.running = append(p.running, child)
	p.mutex.Unlock()
	pid := []byte(fmt.Sprintln(child.Process.Pid))
	if err := os.WriteFile(filepath.Join(p.folder, name+".pid"), pid, 0o644); err != nil {
		return err
	}
	go func() {
		err := child.Wait()
		p.mutex.Lock()
		over := p.over
		p.mutex.Unlock()
		switch {
		case over:
		case name == "kube-apiserver":
			// A fault killed it: it comes back, and not before the fault is over.
			p.comeBack(name, command)
		default:
			p.ended <- fmt.Errorf("%s ended: %w; its log is %s", name, err, log.Name())
		}
	}()
	return nil
}

// comeBack starts a program again as soon as the file NAME.away is not there.
func (p *programs) comeBack(name string, command []string) {
	for {
		if _, err := os.Stat(filepath.Join(p.folder, name+".away")); os.IsNotExist(err) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := p.start(name, command); err != nil {
		p.ended <- err
	}
}

func (p *programs) stop() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.over = true
	for _, child := range p.running {
		_ = child.Process.Kill()
	}
}

func startControlPlane(ctx context.Context, s settings, p *programs) error {
	if err := p.start("etcd", etcdCommand(s)); err != nil {
		return err
	}
	if err := p.start("kube-apiserver", apiserverCommand(s)); err != nil {
		return err
	}
	if err := waitReady(ctx, s); err != nil {
		return err
	}
	return p.start("kube-controller-manager", controllersCommand(s))
}

func etcdCommand(s settings) []string {
	return []string{
		filepath.Join(s.bin, "etcd"),
		"--data-dir=" + filepath.Join(s.folder, "etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		"--unsafe-no-fsync", "--log-level=warn",
	}
}

func apiserverCommand(s settings) []string {
	path := func(name string) string { return filepath.Join(s.folder, name) }
	return []string{
		filepath.Join(s.bin, "kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + s.address, "--secure-port=6443",
		"--tls-cert-file=" + path("apiserver.crt"), "--tls-private-key-file=" + path("apiserver.key"),
		"--client-ca-file=" + path("ca.crt"),
		"--kubelet-certificate-authority=" + path("ca.crt"),
		"--kubelet-client-certificate=" + path("admin.crt"), "--kubelet-client-key=" + path("admin.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-key-file=" + path("accounts.key"),
		"--service-account-signing-key-file=" + path("accounts.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-cluster-ip-range=" + serviceNetwork + "," + serviceNetwork6,
		"--authorization-mode=RBAC", "--allow-privileged=true", "--profiling=false",
	}
}

func controllersCommand(s settings) []string {
	path := func(name string) string { return filepath.Join(s.folder, name) }
	return []string{
		filepath.Join(s.bin, "kube-controller-manager"),
		"--kubeconfig=" + path("kubeconfig"),
		"--service-account-private-key-file=" + path("accounts.key"),
		"--root-ca-file=" + path("ca.crt"),
		"--leader-elect=false", "--use-service-account-credentials=false",
		"--cluster-cidr=" + podNetwork + "," + podNetwork6, "--allocate-node-cidrs=false",
		"--controllers=endpointslice-controller,endpoints-controller,namespace-controller," +
			"serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller," +
			"garbage-collector-controller,deployment-controller,replicaset-controller,statefulset-controller",
		"--concurrent-gc-syncs=2", "--kube-api-qps=200", "--kube-api-burst=400", "--profiling=false",
	}
}

func proxyCommand(s settings) []string {
	return []string{
		filepath.Join(s.bin, "kube-proxy"),
		"--kubeconfig=" + filepath.Join(s.folder, "kubeconfig"),
		"--proxy-mode=nftables", "--cluster-cidr=" + podNetwork + "," + podNetwork6, "--hostname-override=" + s.name,
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
		"--conntrack-tcp-timeout-close-wait=0", "--nodeport-addresses=" + s.address + "/32",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
	}
}

// waitReady asks the API server until it says that it is ready, a minute and a half at the most.
func waitReady(ctx context.Context, s settings) error {
	pem, err := os.ReadFile(filepath.Join(s.folder, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	until := time.Now().Add(90 * time.Second)
	for {
		response, err := client.Get("https://" + s.address + ":6443/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it says %s", response.Status)
		}
		if time.Now().After(until) {
			return fmt.Errorf("the API server is not ready: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
