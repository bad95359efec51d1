// Makes one burst on its memory port, as its registers say, or goes wrong as they say. Signals are called as
// Vitis HLS calls them. Registers: 0x10 at, 0x1c length, 0x24 size, 0x2c burst, 0x34 strobes, 0x3c mode, 0x44 seen.

module poke (
    input  wire        ap_clk,
    input  wire        ap_rst_n,
    input  wire [6:0]  s_axi_control_AWADDR,
    input  wire        s_axi_control_AWVALID,
    output wire        s_axi_control_AWREADY,
    input  wire [31:0] s_axi_control_WDATA,
    input  wire [3:0]  s_axi_control_WSTRB,
    input  wire        s_axi_control_WVALID,
    output wire        s_axi_control_WREADY,
    output wire [1:0]  s_axi_control_BRESP,
    output reg         s_axi_control_BVALID,
    input  wire        s_axi_control_BREADY,
    input  wire [6:0]  s_axi_control_ARADDR,
    input  wire        s_axi_control_ARVALID,
    output wire        s_axi_control_ARREADY,
    output reg  [31:0] s_axi_control_RDATA,
    output wire [1:0]  s_axi_control_RRESP,
    output reg         s_axi_control_RVALID,
    input  wire        s_axi_control_RREADY,
    output wire [63:0] m_axi_data_AWADDR,
    output wire [7:0]  m_axi_data_AWLEN,
    output wire [2:0]  m_axi_data_AWSIZE,
    output wire [1:0]  m_axi_data_AWBURST,
    output wire [3:0]  m_axi_data_AWID,
    output wire        m_axi_data_AWVALID,
    input  wire        m_axi_data_AWREADY,
    output wire [63:0] m_axi_data_WDATA,
    output wire [7:0]  m_axi_data_WSTRB,
    output wire        m_axi_data_WLAST,
    output wire        m_axi_data_WVALID,
    input  wire        m_axi_data_WREADY,
    input  wire [3:0]  m_axi_data_BID,
    input  wire        m_axi_data_BVALID,
    output wire        m_axi_data_BREADY,
    output wire [63:0] m_axi_data_ARADDR,
    output wire [7:0]  m_axi_data_ARLEN,
    output wire [2:0]  m_axi_data_ARSIZE,
    output wire [1:0]  m_axi_data_ARBURST,
    output wire [3:0]  m_axi_data_ARID,
    output wire        m_axi_data_ARVALID,
    input  wire        m_axi_data_ARREADY,
    input  wire [63:0] m_axi_data_RDATA,
    input  wire [3:0]  m_axi_data_RID,
    input  wire        m_axi_data_RLAST,
    input  wire        m_axi_data_RVALID,
    output wire        m_axi_data_RREADY
);

localparam READ = 0, WRITE = 1, HANG = 2, FATAL = 3, FINISH = 4, BAD_ANSWER = 5, NO_ANSWER = 6, NOT_LAST = 7, LOOP = 8,
    EARLY = 9, LATE = 10,  // they say that it is done before their burst
    UNASKED = 11;
localparam IDLE = 0, ASK = 1, DATA = 2, AGREED = 3, WRONG = 4, LINGER = 5;
localparam ID = 4'd5;

reg [31:0] registers [0:31];
reg [2:0]  state;
reg        start, done;
reg [7:0]  beat;
reg [31:0] seen;

wire [63:0] at = {registers[5], registers[4]};
wire [7:0]  length = registers[7][7:0];
wire [31:0] mode = registers[15];
wire        writes = mode == WRITE || mode == NOT_LAST || mode == EARLY || mode == LATE;

assign m_axi_data_AWADDR = at;
assign m_axi_data_ARADDR = at;
assign m_axi_data_AWLEN = length;
assign m_axi_data_ARLEN = length;
assign m_axi_data_AWSIZE = registers[9][2:0];
assign m_axi_data_ARSIZE = registers[9][2:0];
assign m_axi_data_AWBURST = registers[11][1:0];
assign m_axi_data_ARBURST = registers[11][1:0];
assign m_axi_data_AWID = ID;
assign m_axi_data_ARID = ID;
assign m_axi_data_AWVALID = state == ASK && writes;
assign m_axi_data_ARVALID = state == ASK && !writes;
assign m_axi_data_WDATA = {8{beat + 8'd1}};
assign m_axi_data_WSTRB = registers[13][7:0];
assign m_axi_data_WLAST = beat == length && mode != NOT_LAST;
assign m_axi_data_WVALID = state == DATA && writes;
assign m_axi_data_BREADY = state == AGREED;
assign m_axi_data_RREADY = state == DATA && !writes;

wire taken = m_axi_data_RVALID && m_axi_data_RREADY;
wire given = m_axi_data_WVALID && m_axi_data_WREADY;

// Registers answer only what is asked, but in one mode, and an address may come before its data.
wire unasked = state == WRONG && mode == UNASKED;
reg held;
reg [6:0] place;
assign s_axi_control_AWREADY = !held && !s_axi_control_BVALID && !unasked;
assign s_axi_control_WREADY = held;
wire restless = mode == LOOP && !restless;
assign s_axi_control_BRESP = {restless, 1'b0};
assign s_axi_control_ARREADY = !s_axi_control_RVALID && !(state == WRONG && mode == NO_ANSWER) && !unasked;
assign s_axi_control_RRESP = state == WRONG && mode == BAD_ANSWER ? 2'b10 : 2'b00;

always @(posedge ap_clk) begin
    if (s_axi_control_AWVALID && s_axi_control_AWREADY) begin
        held <= 1;
        place <= s_axi_control_AWADDR;
    end
    if (s_axi_control_WVALID && s_axi_control_WREADY) begin
        held <= 0;
        s_axi_control_BVALID <= 1;
        if (place == 0) start <= s_axi_control_WDATA[0];
        else registers[place[6:2]] <= s_axi_control_WDATA;
    end
    if (s_axi_control_BVALID && s_axi_control_BREADY) s_axi_control_BVALID <= 0;
    if (s_axi_control_ARVALID && s_axi_control_ARREADY) begin
        s_axi_control_RVALID <= 1;
        if (s_axi_control_ARADDR == 0) done <= 0;
        s_axi_control_RDATA <= s_axi_control_ARADDR == 0 ? {29'b0, state == IDLE && !start, done, start}
            : s_axi_control_ARADDR == 7'h44 ? seen : registers[s_axi_control_ARADDR[6:2]];
    end
    if (s_axi_control_RVALID && s_axi_control_RREADY) s_axi_control_RVALID <= 0;
    if (unasked) begin
        s_axi_control_BVALID <= 1;
        s_axi_control_RVALID <= 1;
    end

    if (taken) begin
        seen <= seen ^ m_axi_data_RDATA[31:0] ^ m_axi_data_RDATA[63:32];
        if (m_axi_data_RLAST != (beat == length) || m_axi_data_RID != ID) $fatal(1, "a beat is not what it should be");
    end
    if (taken || given) beat <= beat + 1;
    case (state)
        IDLE: if (start) begin
            beat <= 0;
            seen <= 0;
            start <= 0;
            state <= mode == LATE ? LINGER : mode == READ || writes ? ASK : WRONG;
            if (mode == EARLY || mode == LATE) done <= 1;
            if (mode == FATAL) $fatal(1, "this is what it is for");
            if (mode == FINISH) $finish;
        end
        LINGER: begin
            beat <= beat == 30 ? 0 : beat + 1;
            if (beat == 30) state <= ASK;
        end
        ASK: if (writes ? m_axi_data_AWREADY : m_axi_data_ARREADY) state <= DATA;
        DATA: if ((taken || given) && beat == length) begin
            state <= writes ? AGREED : IDLE;
            if (!writes) done <= 1;
        end
        AGREED: if (m_axi_data_BVALID) begin
            if (m_axi_data_BID != ID) $fatal(1, "this answers another burst");
            state <= IDLE;
            done <= 1;
        end
        default: ;
    endcase
    if (!ap_rst_n) begin
        state <= IDLE;
        start <= 0;
        done <= 0;
        held <= 0;
        s_axi_control_BVALID <= 0;
        s_axi_control_RVALID <= 0;
    end
end

endmodule
